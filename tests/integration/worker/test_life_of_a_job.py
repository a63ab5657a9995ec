"""Jobs through a real worker with a fast trainer, on both databases."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from opensloth.database import db_now
from opensloth.devices.rows import DeviceLeaseRow
from opensloth.events.records import EventView
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import ADMIN, submit, wait_for, wait_for_state
from tests.support.up_process import is_gone
from tests.support.workers import Worker, running_worker, trainers_of


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Leases and graces that a loaded machine keeps: what is tested here is not how they end."""
    return settings.model_copy(update={"lease_s": 10.0, "host_timeout_s": 15.0, "stop_grace_s": 30.0})


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[Worker]:
    with running_worker(settings, tmp_path) as running:
        yield running


def all_events(services: Services, job_id: str) -> list[EventView]:
    return services.events.list(job_id, limit=10_000)


def leased(services: Services) -> list[str]:
    with services.database.read() as session:
        return list(session.scalars(select(DeviceLeaseRow.job_id)))


def steps_of(services: Services, job_id: str) -> list[int]:
    (series,) = services.jobs.metrics(job_id, ADMIN, ["loss"])
    return [point["step"] for point in series["points"]]


def test_a_job_runs_to_its_end_and_leaves_a_model(services: Services, worker: Worker) -> None:
    job_id = submit(services, "steps=6 save=3")
    job = wait_for_state(services, job_id, "succeeded", "failed")
    assert job.state == "succeeded", job.error
    assert job.progress is not None
    assert (job.progress.step, job.progress.percent) == (6, 100.0)
    assert job.result is not None
    assert [artifact.name for artifact in job.result.artifacts] == ["adapter_config.json"]
    assert services.models.get(job.result.model, ADMIN).job_id == job_id
    assert services.models.get(job_id, ADMIN).id == job.result.model
    assert [checkpoint.step for checkpoint in services.jobs.checkpoints(job_id, ADMIN)] == [6, 3]
    events = all_events(services, job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    moves = [(event.data["from"], event.data["to"]) for event in events if event.type == "state"]
    assert moves == [(None, "queued"), ("queued", "starting"), ("starting", "running"), ("running", "succeeded")]
    assert leased(services) == []


def test_a_killed_trainer_resumes_from_its_newest_checkpoint(services: Services, worker: Worker) -> None:
    job_id = submit(services, "steps=12 save=5 kill@7")
    job = wait_for_state(services, job_id, "succeeded", "failed")
    assert job.state == "succeeded", job.error
    assert job.attempt == 2
    started = [event.data for event in all_events(services, job_id) if event.type == "started"]
    assert [data["resumed_step"] for data in started] == [0, 5]
    assert steps_of(services, job_id) == list(range(1, 13))


def test_what_a_trainer_started_in_a_session_of_its_own_goes_with_it(services: Services, worker: Worker) -> None:
    job_id = submit(services, "steps=100000 step_s=0.05 daemon")
    wait_for_state(services, job_id, "running")
    (trainer,) = trainers_of(job_id)
    (daemon,) = trainer.children()
    trainer.kill()
    wait_for(lambda: services.jobs.get(job_id, ADMIN).attempt == 2)
    assert is_gone(daemon)
    services.control.cancel(job_id, ADMIN, save=False)
    wait_for_state(services, job_id, "cancelled")


@pytest.mark.slow
def test_a_trainer_that_is_always_killed_fails_after_its_retries(services: Services, worker: Worker) -> None:
    job_id = submit(services, "steps=12 kill_always@3", max_retries=1)
    job = wait_for_state(services, job_id, "failed")
    assert (job.reason, job.attempt) == ("trainer_killed", 2)
    assert job.error is not None
    assert "signal 9" in job.error.message
    assert leased(services) == []


def test_a_failure_that_a_retry_cannot_mend_ends_the_job_at_once(services: Services, worker: Worker) -> None:
    job_id = submit(services, "steps=12 nan@4")
    job = wait_for_state(services, job_id, "failed")
    assert (job.reason, job.attempt) == ("nan_loss", 1)
    assert job.error is not None
    assert job.error.hint is not None
    assert "learning_rate" in job.error.hint


def test_cancel_ends_a_running_job_and_frees_its_device(services: Services, worker: Worker) -> None:
    job_id = submit(services, "steps=1000 step_s=0.05")
    wait_for_state(services, job_id, "running")
    services.control.cancel(job_id, ADMIN)
    again = services.control.cancel(job_id, ADMIN)
    assert again.state in ("stopping", "cancelled")
    wait_for_state(services, job_id, "cancelled")
    assert leased(services) == []
    wait_for(lambda: not trainers_of(job_id))


def test_a_trainer_that_ignores_sigterm_is_killed(services: Services, settings: Settings, tmp_path: Path) -> None:
    impatient = settings.model_copy(update={"stop_grace_s": 0.5})
    with running_worker(impatient, tmp_path):
        job_id = submit(services, "steps=1000 step_s=0.05 deaf")
        wait_for_state(services, job_id, "running")
        services.control.cancel(job_id, ADMIN)
        wait_for_state(services, job_id, "cancelled")
        wait_for(lambda: not trainers_of(job_id))


@pytest.mark.slow
def test_the_time_limit_ends_a_job_with_a_checkpoint(services: Services, worker: Worker) -> None:
    job_id = submit(services, "steps=1000 step_s=0.05", time_limit=6)
    job = wait_for_state(services, job_id, "failed")
    assert job.reason == "time_limit"
    assert services.jobs.checkpoints(job_id, ADMIN)


def test_two_jobs_share_the_box_and_the_third_waits(services: Services, worker: Worker) -> None:
    jobs = [submit(services, "steps=1000 step_s=0.05") for _ in range(3)]
    for job_id in jobs[:2]:
        wait_for_state(services, job_id, "running")
    assert services.jobs.get(jobs[2], ADMIN).state == "queued"
    services.control.cancel(jobs[0], ADMIN)
    wait_for_state(services, jobs[2], "running")
    for job_id in jobs[1:]:
        services.control.cancel(job_id, ADMIN)


def test_a_worker_that_stops_queues_its_jobs_and_the_next_one_goes_on(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    with running_worker(settings, tmp_path) as worker:
        job_id = submit(services, "steps=60 step_s=0.05")
        wait_for_state(services, job_id, "running")
        worker.stop()
        job = services.jobs.get(job_id, ADMIN)
        assert (job.state, job.reason) == ("queued", "drained")
        assert not trainers_of(job_id)
        worker.start()
        job = wait_for_state(services, job_id, "succeeded", "failed")
        assert job.state == "succeeded", job.error
        assert steps_of(services, job_id) == list(range(1, 61))


def test_a_killed_worker_takes_its_trainer_along_and_the_next_one_goes_on(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    with running_worker(settings, tmp_path) as worker:
        job_id = submit(services, "steps=60 step_s=0.05 save=5")
        wait_for(lambda: services.jobs.checkpoints(job_id, ADMIN))
        worker.kill(signal.SIGKILL)
        wait_for(lambda: not trainers_of(job_id))
        worker.start()
        job = wait_for_state(services, job_id, "succeeded", "failed")
        assert job.state == "succeeded", job.error
        assert job.attempt == 2
        assert steps_of(services, job_id) == list(range(1, 61))
        events = all_events(services, job_id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))


def test_a_job_waits_for_the_one_it_depends_on(services: Services, worker: Worker) -> None:
    first = submit(services, "steps=20")
    second = submit(services, "steps=3", depends_on=[first])
    assert services.jobs.get(second, ADMIN).state == "waiting"
    wait_for_state(services, second, "succeeded")
    third = submit(services, "steps=5 nan@2")
    fourth = submit(services, "steps=3", depends_on=third)
    job = wait_for_state(services, fourth, "failed")
    assert job.reason == "dependency_failed"


def test_a_higher_class_preempts_to_a_checkpoint_and_the_job_goes_on_later(services: Services, worker: Worker) -> None:
    # Long enough that neither ends by itself, nor so soon that waiting for it is better than to preempt it.
    low = [submit(services, "steps=20000 step_s=0.05", priority="low") for _ in range(2)]
    for job_id in low:
        wait_for_state(services, job_id, "running")
    wait_for(lambda: all(services.jobs.get(job_id, ADMIN).progress.step > 15 for job_id in low))  # type: ignore[union-attr]
    high = submit(services, "steps=5", priority="high")
    wait_for_state(services, high, "succeeded")
    (stopped,) = [job_id for job_id in low if "stopped" in types_of(services, job_id)]
    last = max(steps_of(services, stopped))
    wait_for(lambda: max(steps_of(services, stopped)) > last + 5)
    for job_id in low:
        services.control.cancel(job_id, ADMIN)
        wait_for_state(services, job_id, "cancelled")
    job = services.jobs.get(stopped, ADMIN)
    assert job.attempt == 2
    steps = steps_of(services, stopped)
    assert steps == list(range(1, len(steps) + 1))


def types_of(services: Services, job_id: str) -> list[str]:
    return [event.type for event in all_events(services, job_id)]


def test_the_database_has_a_clock(services: Services) -> None:
    with services.database.read() as session:
        assert (session.scalar(select(db_now())) or 0) > 1.7e9
