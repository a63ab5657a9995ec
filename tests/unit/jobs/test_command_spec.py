"""A leased command is checked field by field, and by nothing that a shell would do."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from opensloth.accounts.callers import Caller
from opensloth.accounts.rows import UserRow
from opensloth.accounts.users import add_user
from opensloth.devices.inventory import FoundDevice
from opensloth.errors import InvalidInput, NotAllowed
from opensloth.jobs.command_spec import parse_command_spec
from opensloth.services import Services
from tests.support.jobs import ADMIN

GOOD: dict[str, Any] = {"command": ["python", "a file.py", "$HOME"], "time_limit": "2h"}


def test_what_is_not_set_has_a_default() -> None:
    spec = parse_command_spec(GOOD)
    assert (spec.time_limit, spec.gpus, spec.idle_limit, spec.directory) == (7200, 1, None, None)
    assert spec.line == "python 'a file.py' '$HOME'"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"command": "python mine.py"}, "command"),
        ({"command": []}, "command"),
        ({"command": [" "]}, "command"),
        ({"command": ["a", 1]}, "command[1]"),
        ({"command": ["x" * 5000]}, "command[0]"),
        ({"time_limit": None}, "time_limit"),
        ({"time_limit": "soon"}, "time_limit"),
        ({"time_limit": 0}, "time_limit"),
        ({"gpus": -1}, "gpus"),
        ({"idle_limit": "never"}, "idle_limit"),
        ({"directory": "project"}, "directory"),
        ({"environment": {"A-B": "1"}}, "environment"),
        ({"environment": {"CUDA_VISIBLE_DEVICES": "0,1"}}, "environment"),
        ({"environment": {"A": 1}}, "environment.A"),
        ({"comand": ["a"]}, "comand"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_command_spec({**GOOD, **change})
    assert path in [error.path for error in refused.value.fields]


def test_a_time_limit_has_to_be_said() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_command_spec({"command": ["true"]})
    assert [error.path for error in refused.value.fields] == ["time_limit"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_a_host_or_an_account_a_command_is_refused_with_what_to_do(services: Services) -> None:
    def refusal() -> str:
        with pytest.raises(NotAllowed) as refused:
            services.leases.submit(GOOD, ADMIN)
        assert refused.value.hint
        return refused.value.error_code

    device = FoundDevice("box:cpu0", "cpu", 0, "CPU slot", 2**30)
    assert refusal() == "leases_off"
    services.devices.register("box", [device])
    assert refusal() == "leases_off"
    services.devices.register("box", [device], leases=True)
    assert refusal() == "no_account"
    with services.database.write() as session:
        add_user(session, ADMIN, "admin", "admin", "default", {}, field="name")
    assert refusal() == "no_account"
    with services.database.write() as session:
        session.execute(update(UserRow).values(account="ann"))
    job, _ = services.leases.submit(GOOD, ADMIN)
    assert (job.kind, job.state, job.name) == ("command", "queued", "python 'a file.py' '$HOME'")
    with pytest.raises(InvalidInput) as too_many:
        services.leases.submit({**GOOD, "gpus": 2}, ADMIN)
    assert too_many.value.fields[0].path == "gpus"
    with pytest.raises(NotAllowed):
        services.leases.submit({**GOOD, "priority": "urgent"}, Caller("admin", "member"))
    services.control.cancel(job.id, ADMIN)
    again, _ = services.retries.retry(job.id, ADMIN)
    assert (again.kind, again.retry_of, again.spec) == ("command", job.id, GOOD)
