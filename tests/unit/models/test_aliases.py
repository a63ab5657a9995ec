from __future__ import annotations

import pytest

from opensloth.accounts.callers import Caller
from opensloth.errors import Conflict, InvalidInput, NotAllowed
from opensloth.services import Services
from tests.support.jobs import ADMIN, add_file, add_model, body

NAME = "gpt-4o-mini-2024-07-18"


def test_an_alias_stands_for_its_model_everywhere(services: Services) -> None:
    add_model(services)
    made = services.models.alias(NAME, "tiny", ADMIN)
    assert (made.id, made.kind, made.base) == (NAME, "alias", "tiny")
    assert services.models.target(NAME, ADMIN) == "tiny"
    assert services.models.target("tiny", ADMIN) == "tiny"
    with services.database.read() as session:
        assert services.models.choices.of(session, NAME, "model", ADMIN) == services.models.choices.of(
            session, "tiny", "model", ADMIN
        )
    job, _ = services.jobs.submit(_body(services), ADMIN)
    assert job.state == "queued"


def test_an_alias_moves_to_another_model_unless_a_job_needs_it(services: Services) -> None:
    add_model(services)
    add_model(services, "other")
    services.models.alias(NAME, "tiny", ADMIN)
    assert services.models.alias(NAME, "other", ADMIN).base == "other"
    job, _ = services.jobs.submit(_body(services), ADMIN)
    with pytest.raises(Conflict, match=job.id):
        services.models.alias(NAME, "tiny", ADMIN)
    with pytest.raises(Conflict, match=job.id):
        services.models.delete(NAME, ADMIN)
    services.control.cancel(job.id, ADMIN)
    with pytest.raises(Conflict, match=NAME):
        services.models.delete("other", ADMIN)
    services.models.delete(NAME, ADMIN)
    services.models.delete("other", ADMIN)


def test_what_cannot_be_an_alias_is_refused(services: Services) -> None:
    add_model(services)
    services.models.alias(NAME, "tiny", ADMIN)
    with pytest.raises(NotAllowed):
        services.models.alias("x", "tiny", Caller("bob", "member"))
    with pytest.raises(Conflict):
        services.models.alias("tiny", "tiny", ADMIN)
    with pytest.raises(Conflict):
        services.models.register(NAME, "/models/x", ADMIN)
    for name, target in [("x", "nothing"), ("x", NAME), ("ftjob-0", "tiny"), ("a b", "tiny"), ("", "tiny")]:
        with pytest.raises(InvalidInput):
            services.models.alias(name, target, ADMIN)


def _body(services: Services) -> dict[str, object]:
    made = body(services, add_file(services))
    made["opensloth_config"]["fast_model_args"]["model_name"] = NAME
    return made
