"""Jobs that could never start are refused when they are submitted."""

from __future__ import annotations

import pytest

from opensloth.accounts.callers import Caller
from opensloth.accounts.rows import TeamRow, UserRow
from opensloth.errors import InvalidInput
from opensloth.services import Services
from tests.support.boxes import add_host
from tests.support.jobs import add_file, add_model, body

ANN = Caller("ann", "member")


def submit(services: Services, gpus: int, file: str) -> None:
    services.jobs.submit(body(services, file, resources={"gpus": gpus}), ANN)


@pytest.mark.parametrize(("user", "team", "whose"), [(2, None, "you may hold 2"), (None, 1, "your team may hold 1")])
def test_more_devices_than_the_user_or_the_team_may_ever_hold(services: Services, user, team, whose):
    add_host(services, 8)
    add_model(services)
    file = add_file(services)
    with services.database.write() as session:
        session.merge(TeamRow(name="default", created_at=0.0, max_devices=team))
        session.flush()
        session.add(UserRow(name="ann", team="default", role="member", created_at=0.0, max_devices=user))
    with pytest.raises(InvalidInput) as refused:
        submit(services, 4, file)
    [field] = refused.value.fields
    assert (field.path, field.code) == ("resources.gpus", "over_quota")
    assert field.message.startswith(whose)
    assert field.message.endswith("at once, and the job asks for 4")
    submit(services, 1, file)


def test_more_devices_than_any_host_has(services: Services):
    add_host(services, 8)
    add_host(services, 2, "other")
    add_model(services)
    with pytest.raises(InvalidInput) as refused:
        submit(services, 9, add_file(services))
    assert refused.value.fields[0].message == "the largest host has 8 devices"
