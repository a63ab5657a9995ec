"""What a worker writes is applied once and only while the attempt is its own."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from sqlalchemy import update

from opensloth.errors import IdempotencyMismatch
from opensloth.jobs.attempts import AttemptService
from opensloth.jobs.endings import End
from opensloth.jobs.planning import plan_round
from opensloth.jobs.rows import JobRow
from opensloth.jobs.states import StopIntent
from opensloth.services import Services
from tests.support.jobs import ADMIN, add_file, add_model, body, submit, wait_for
from worker.host import Host


@pytest.fixture
def attempts(services: Services) -> AttemptService:
    return AttemptService(services.database, services.events, services.publisher, services.settings)


def place(services: Services, attempts: AttemptService, name: str = "x") -> str:
    """A job that is placed on this host and taken up, with no supervisor behind it."""
    Host(services)._register()
    job_id = submit(services, name)
    args = (services.database, services.events, services.publisher, services.settings)
    assert wait_for(lambda: services.devices.beat("box", {}) and plan_round(*args)) == 1
    assert [placed.job.id for placed in attempts.take_up("box")] == [job_id]
    return job_id


def record(step: int) -> dict[str, Any]:
    return {"type": "metrics", "message": "", "data": {"step": step, "max_steps": 10, "metrics": {"loss": 1.0}}}


def test_the_same_records_delivered_twice_are_stored_once(services: Services, attempts: AttemptService) -> None:
    job_id = place(services, attempts)
    for _ in range(3):
        assert attempts.record(job_id, 1, [record(1), record(2)], 0, 100)
    assert attempts.record(job_id, 1, [record(3)], 100, 150)
    steps = [event.data["step"] for event in services.events.list(job_id) if event.type == "metrics"]
    assert steps == [1, 2, 3]


def test_a_checkpoint_that_is_made_again_lets_go_of_the_earlier_one(
    services: Services, attempts: AttemptService
) -> None:
    job_id = place(services, attempts)
    own = f"jobs/{job_id}/checkpoints"
    for number, key in enumerate((f"{own}/attempt-1/step-00000005", f"{own}/attempt-2/step-00000005")):
        services.storage.put_bytes(f"{key}/state", b"x")
        saved = {"type": "checkpoint", "message": "", "data": {"step": 5, "key": key, "removed": []}}
        assert attempts.record(job_id, 1, [saved], number, number + 1)
    services.deletions.redo(older_than_s=-60)
    assert services.storage.list_keys(f"{own}/attempt-1") == []
    assert services.storage.list_keys(f"{own}/attempt-2") == ["step-00000005"]
    assert [made.step for made in services.jobs.checkpoints(job_id, ADMIN)] == [5]


def test_a_placement_is_taken_up_once_by_many(services: Services, attempts: AttemptService) -> None:
    Host(services)._register()
    submit(services)
    plan_round(services.database, services.events, services.publisher, services.settings)
    taken: list[str] = []
    threads = [
        threading.Thread(target=lambda: taken.extend(placed.job.id for placed in attempts.take_up("box")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_planners_at_once_place_each_job_once(services: Services) -> None:
    Host(services)._register()
    jobs = [submit(services) for _ in range(2)]
    placed: list[int] = []
    args = (services.database, services.events, services.publisher, services.settings)
    threads = [threading.Thread(target=lambda: placed.append(plan_round(*args))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(placed) == 2
    assert {services.jobs.get(job_id, ADMIN).attempt for job_id in jobs} == {1}
    assert len({services.jobs.get(job_id, ADMIN).devices[0] for job_id in jobs}) == 2


def test_after_its_lease_an_attempt_is_lost_and_all_its_writes_are_refused(
    services: Services, attempts: AttemptService
) -> None:
    job_id = place(services, attempts)
    with services.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(lease_until=time.time() - 1))
    assert attempts.reap({(job_id, 1)}) == [], "who supervises it knows better how it ends"
    assert attempts.reap() == [job_id]
    assert attempts.reap() == []
    assert attempts.renew(job_id, 1) == (False, None)
    job = services.jobs.get(job_id, ADMIN)
    assert (job.state, job.reason) == ("queued", "host_lost")
    args = (services.database, services.events, services.publisher, services.settings)
    wait_for(lambda: services.devices.beat("box", {}) and plan_round(*args))
    assert not attempts.record(job_id, 1, [record(1)], 0, 10)
    assert attempts.end(job_id, 1, End("failed", "nan_loss")) is None
    assert services.jobs.get(job_id, ADMIN).state == "starting"


def test_a_lease_that_ran_out_is_kept_by_whoever_still_has_the_attempt(
    services: Services, attempts: AttemptService
) -> None:
    job_id = place(services, attempts)
    with services.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(lease_until=time.time() - 1))
    assert attempts.renew(job_id, 1) == (True, None)
    assert attempts.reap() == []
    assert services.jobs.get(job_id, ADMIN).state == "starting"


def lose_host(services: Services, attempts: AttemptService, job_id: str) -> str:
    """The host of a job's attempt is lost; the next attempt begins if there is one. Returns the reason."""
    attempt = services.jobs.get(job_id, ADMIN).attempt
    attempts.started_processes(job_id, attempt, [{"pid": 1, "started": 0.0}])
    attempts.end(job_id, attempt, End("lost", "host_lost"))
    ended = services.jobs.get(job_id, ADMIN)
    if ended.state == "queued":
        args = (services.database, services.events, services.publisher, services.settings)
        wait_for(lambda: services.devices.beat("box", {}) and plan_round(*args))
        attempts.take_up("box")
    return str(ended.reason)


def test_a_job_that_loses_three_hosts_fails(services: Services, attempts: AttemptService) -> None:
    job_id = place(services, attempts)
    assert [lose_host(services, attempts, job_id) for _ in range(3)] == ["host_lost", "host_lost", "worker_killed"]
    job = services.jobs.get(job_id, ADMIN)
    assert (job.state, job.attempt) == ("failed", 3)


def test_hosts_that_were_only_cut_off_are_not_put_down_to_the_job(services: Services, attempts: AttemptService) -> None:
    job_id = place(services, attempts)
    for number in range(1, 6):
        assert lose_host(services, attempts, job_id) == "host_lost"
        if number % 2:
            assert attempts.renew(job_id, number) == (False, None), "it is back and asks"
        else:
            assert attempts.end(job_id, number, End("lost", "lease_lost")) is None, "it is back and tells"
    assert services.jobs.get(job_id, ADMIN).attempt == 6


def test_a_stop_of_the_worker_of_which_the_database_did_not_hear_queues_the_job(
    services: Services, attempts: AttemptService
) -> None:
    job_id = place(services, attempts)
    assert attempts.end(job_id, 1, End("stopped")) == "queued"
    job = services.jobs.get(job_id, ADMIN)
    assert (job.state, job.reason) == ("queued", "drained")


def test_a_job_that_had_no_process_there_took_no_host_down(services: Services, attempts: AttemptService) -> None:
    job_id = place(services, attempts)
    args = (services.database, services.events, services.publisher, services.settings)
    for number in range(1, 6):
        attempts.end(job_id, number, End("lost", "host_lost"))
        wait_for(lambda: services.devices.beat("box", {}) and plan_round(*args))
    assert services.jobs.get(job_id, ADMIN).attempt == 6


def test_a_job_that_gets_on_between_may_lose_any_number_of_hosts(services: Services, attempts: AttemptService) -> None:
    job_id = place(services, attempts)
    for number in range(1, 6):
        saved = {"type": "checkpoint", "message": "", "data": {"step": number, "key": f"jobs/{job_id}/c{number}"}}
        assert attempts.record(job_id, number, [saved], 0, 10)
        assert lose_host(services, attempts, job_id) == "host_lost"
    assert services.jobs.get(job_id, ADMIN).attempt == 6


def test_a_stronger_stop_replaces_a_weaker_one(services: Services, attempts: AttemptService) -> None:
    job_id = place(services, attempts)
    attempts.ask_stop(job_id, 1, StopIntent.DRAIN, "the host stops")
    services.control.cancel(job_id, ADMIN)
    attempts.ask_stop(job_id, 1, StopIntent.DRAIN, "the host stops")
    assert services.jobs.get(job_id, ADMIN).stop_intent == "cancel"
    attempts.end(job_id, 1, End("stopped"))
    assert services.jobs.get(job_id, ADMIN).state == "cancelled"


def test_work_that_was_complete_before_the_stop_succeeds(services: Services, attempts: AttemptService) -> None:
    job_id = place(services, attempts)
    services.control.cancel(job_id, ADMIN)
    result = {"key": "jobs/x/artifacts", "artifacts": [], "base": "tiny"}
    attempts.end(job_id, 1, End("succeeded", result=result))
    assert services.jobs.get(job_id, ADMIN).state == "succeeded"


def test_one_idempotency_key_makes_one_job_however_many_send_it(services: Services) -> None:
    add_model(services)
    spec = body(services, add_file(services))
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.append(services.jobs.submit(spec, ADMIN, "k")[0].id)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    with pytest.raises(IdempotencyMismatch):
        services.jobs.submit({**spec, "name": "other"}, ADMIN, "k")
