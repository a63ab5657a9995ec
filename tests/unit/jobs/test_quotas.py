"""Who has as much as they may is told so, the last place is taken once, and others are not touched."""

from __future__ import annotations

import threading

import pytest

from opensloth.accounts.callers import HOST, Caller
from opensloth.errors import InvalidInput, QuotaExceeded
from opensloth.jobs.quotas import belongings, held
from opensloth.jobs.rows import CheckpointRow
from opensloth.models.rows import ModelRow
from opensloth.services import Services
from tests.support.jobs import add_file, add_model, body

ADA, BOB = Caller("ada", "member", "red"), Caller("bob", "member", "red")
ROW = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'


@pytest.fixture
def red(services: Services) -> str:
    """A team of two with a file for them; gives the file's id."""
    services.teams.create("red", HOST, {})
    for name in ("ada", "bob"):
        services.users.create(name, HOST, role="member", team="red", account=None, limits={})
    add_model(services)
    return services.files.create("rows.jsonl", [ROW], ADA).id


def test_the_queued_jobs_of_a_user_and_of_a_team_are_limited(services: Services, red: str) -> None:
    services.users.update("ada", HOST, {"max_queued": 1})
    services.teams.update("red", HOST, {"max_queued": 2})
    first = services.jobs.submit(body(services, red), ADA)[0]
    with pytest.raises(QuotaExceeded, match="user ada"):
        services.jobs.submit(body(services, red), ADA)
    services.control.pause(first.id, ADA)
    with pytest.raises(QuotaExceeded):
        services.jobs.submit(body(services, red), ADA)
    services.jobs.submit(body(services, red), BOB)
    with pytest.raises(QuotaExceeded, match="team red"):
        services.jobs.submit(body(services, red), BOB)
    services.jobs.submit(body(services, add_file(services)), Caller("eve", "member"))
    services.control.cancel(first.id, ADA)
    services.jobs.submit(body(services, red), ADA)


def test_who_sends_a_key_twice_at_once_gets_the_job_that_took_the_last_place(services: Services, red: str) -> None:
    services.users.update("ada", HOST, {"max_queued": 1})
    at_once = threading.Barrier(4)
    made: list[str] = []

    def submit() -> None:
        at_once.wait()
        made.append(services.jobs.submit(body(services, red), ADA, "the key")[0].id)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1


def test_the_last_place_is_taken_once(services: Services, red: str) -> None:
    services.teams.update("red", HOST, {"max_queued": 3})
    refused: list[Exception] = []

    def submit(caller: Caller) -> None:
        try:
            services.jobs.submit(body(services, red), caller)
        except QuotaExceeded as error:
            refused.append(error)

    threads = [threading.Thread(target=submit, args=(caller,)) for caller in (ADA, BOB) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3


def test_stored_bytes_are_files_checkpoints_and_results(services: Services, red: str) -> None:
    job = services.jobs.submit(body(services, red), ADA)[0]
    with services.database.write() as session:
        common = {"attempt": 1, "save_s": 1.0, "metrics": {}, "created_at": 1.0}
        session.add(CheckpointRow(job_id=job.id, step=1, key="k", bytes=1000, **common))
        session.add(
            ModelRow(
                id="ft:x", kind="result", status="ready", owner="ada", team="red", source="x", bytes=500, created_at=1.0
            )
        )
    with services.database.read() as session:
        mine = held(session, services.settings, "user", "ada")
        assert mine.bytes == len(ROW) + 1500
        assert (mine.queued, mine.devices, mine.device_hours) == (1, 0, 0.0)
        assert held(session, services.settings, "team", "red") == mine
        assert held(session, services.settings, "user", "bob").bytes == 0
        assert belongings(session, "user", "ada") == "1 jobs"
        assert belongings(session, "user", "bob") is None
    services.teams.update("red", HOST, {"max_bytes": mine.bytes + len(ROW)})
    services.files.create("more.jsonl", [ROW], BOB)
    for refused in (
        lambda: services.files.create("even-more.jsonl", [ROW], BOB),
        lambda: services.jobs.submit(body(services, red), BOB),
    ):
        with pytest.raises(QuotaExceeded, match="team red"):
            refused()
    assert len(services.storage.list_keys("files")) == 2
    services.teams.update("red", HOST, {"max_bytes": mine.bytes + 10**6})
    services.files.admit(BOB, len(ROW) + 500)
    with pytest.raises(QuotaExceeded):
        services.files.admit(BOB, 2 * 10**6)


def test_a_job_that_could_never_start_is_refused(services: Services, red: str) -> None:
    services.users.update("ada", HOST, {"max_devices": 1})
    with pytest.raises(InvalidInput) as refused:
        services.jobs.submit(body(services, red, resources={"gpus": 2}), ADA)
    assert refused.value.fields[0].path == "resources.gpus"
