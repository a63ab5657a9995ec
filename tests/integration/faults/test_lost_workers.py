"""Workers that stop answering, hear everything many times, or are all told to go: one live trainer a job, always."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from opensloth.devices.rows import DeviceLeaseRow
from opensloth.events.publisher import PLAN_QUEUE, celery_app, host_queue
from opensloth.jobs.rows import AttemptRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.faults import BOTH
from tests.support.jobs import ADMIN, submit, wait_for, wait_for_state
from tests.support.up_process import Up, free_port
from tests.support.workers import Worker, running_worker, trainers_of


def resumed(services: Services, job_id: str) -> list[int]:
    """The steps that the attempts of a job went on from."""
    events = services.events.list(job_id, limit=10_000)
    return [event.data["resumed_step"] for event in events if event.type == "started"]


def outcome(services: Services, job_id: str, attempt: int) -> str | None:
    """How an attempt ended."""
    with services.database.read() as session:
        return session.get_one(AttemptRow, (job_id, attempt)).outcome


def put_to_sleep(worker: Worker, services: Services, job_id: str) -> None:
    """Stop the worker of a job that has a checkpoint, until its trainer has left by itself."""
    wait_for(lambda: services.jobs.checkpoints(job_id, ADMIN), timeout=60)
    (trainer,) = trainers_of(job_id)
    worker.kill(signal.SIGSTOP)
    # The sleeper cannot reap its child, which stays as a zombie.
    wait_for(lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE, timeout=60)


def went_on_once(services: Services, job_id: str) -> None:
    """The second attempt runs from a checkpoint, alone; ends it."""
    job = wait_for_state(services, job_id, "running", timeout=60)
    assert job.attempt == 2
    wait_for(lambda: len(resumed(services, job_id)) == 2)
    assert resumed(services, job_id)[1] >= 5
    assert len(trainers_of(job_id)) == 1
    services.control.cancel(job_id, ADMIN, save=False)
    wait_for_state(services, job_id, "cancelled", timeout=60)
    wait_for(lambda: not trainers_of(job_id))


@BOTH
def test_a_worker_that_sleeps_past_its_lease_has_no_trainer_left_and_begins_anew(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    with running_worker(settings, tmp_path) as worker:
        job_id = submit(services, "steps=100000 step_s=0.02 save=5")
        try:
            put_to_sleep(worker, services, job_id)
        finally:
            worker.kill(signal.SIGCONT)
        wait_for(lambda: services.jobs.get(job_id, ADMIN).attempt == 2, timeout=60)
        went_on_once(services, job_id)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_while_a_worker_sleeps_another_host_goes_on_and_what_the_sleeper_says_is_refused(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    other = settings.model_copy(update={"host_id": "other", "devices": "cpu:1"})
    (tmp_path / "other").mkdir()
    with running_worker(settings, tmp_path) as sleeper:
        job_id = submit(services, "steps=100000 step_s=0.02 save=5")
        try:
            put_to_sleep(sleeper, services, job_id)
            with running_worker(other, tmp_path / "other"):
                wait_for(lambda: services.jobs.get(job_id, ADMIN).attempt == 2, timeout=90)
                sleeper.kill(signal.SIGCONT)
                wait_for(lambda: "not ours any more" in sleeper.log.read_text(), timeout=60)
                wait_for(lambda: outcome(services, job_id, 1) == "lease_lost")  # it was not taken down
                went_on_once(services, job_id)
        finally:
            sleeper.kill(signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_second_worker_under_one_host_id_waits_and_once_it_has_taken_over_the_first_leaves(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"lease_s": 10.0, "lease_renew_s": 1.0})
    elsewhere = settings.model_copy(update={"home": tmp_path / "elsewhere"})
    (tmp_path / "log").mkdir()
    with running_worker(settings, tmp_path) as first:
        job_id = submit(services, "steps=100000 step_s=0.02 save=5")
        wait_for_state(services, job_id, "running", timeout=60)
        with running_worker(elsewhere, tmp_path / "log") as second:
            wait_for(lambda: "another worker speaks for the host" in second.log.read_text(), timeout=60)
            put_to_sleep(first, services, job_id)
            assert services.jobs.get(job_id, ADMIN).attempt == 1, "the second worker took it for lost"
            wait_for(lambda: services.jobs.get(job_id, ADMIN).attempt == 2, timeout=60)
            first.kill(signal.SIGCONT)
            assert first.process is not None
            assert first.process.wait(60) == 1
            went_on_once(services, job_id)


@BOTH
def test_a_message_that_comes_a_hundred_times_starts_a_job_once(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"lease_s": 60.0, "host_timeout_s": 60.0})
    app = celery_app(settings.redis)
    with running_worker(settings, tmp_path):
        job_id = submit(services, "steps=30 step_s=0.05")
        for _ in range(100):
            app.send_task("opensloth.plan", queue=PLAN_QUEUE)
            app.send_task("opensloth.look", queue=host_queue(settings.host_id))
        job = wait_for_state(services, job_id, "succeeded", "failed", timeout=180)
        assert (job.state, job.attempt) == ("succeeded", 1)
        with services.database.read() as session:
            assert len(session.scalars(select(AttemptRow)).all()) == 1


@pytest.mark.slow
def test_all_is_told_to_go_with_ten_jobs_running_and_goes_on_after_the_next_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = Settings(home=home, min_free_bytes=0)
    environment = {
        "OPENSLOTH_DEVICES": "cpu:10",
        "OPENSLOTH_TRAINER_MODULE": "tests.support.fake_trainer",
        "OPENSLOTH_POLL_S": "0.3",
    }
    up = Up(home, free_port(), env=environment)
    services = Services.make(settings)
    try:
        up.wait_for("Ready at", 120)
        # Its own Valkey wakes its worker; this process only writes into the database.
        jobs = [submit(services, "steps=100000 step_s=0.05") for _ in range(10)]
        for job_id in jobs:
            wait_for_state(services, job_id, "running", timeout=120)
        up.process.terminate()
        assert up.process.wait(120) == 0, up.text
        for job_id in jobs:
            job = services.jobs.get(job_id, ADMIN)
            assert (job.state, job.reason) == ("queued", "drained")
            assert services.jobs.checkpoints(job_id, ADMIN)
            assert not trainers_of(job_id)
        with services.database.read() as session:
            assert not session.scalars(select(DeviceLeaseRow)).all()
        up = Up(home, free_port(), env=environment)
        for job_id in jobs:
            wait_for_state(services, job_id, "running", timeout=120)
            wait_for(lambda job_id=job_id: len(resumed(services, job_id)) == 2)
            assert resumed(services, job_id)[1] > 0, "it goes on from its checkpoint"
        for job_id in jobs:
            services.control.cancel(job_id, ADMIN, save=False)
        for job_id in jobs:
            wait_for_state(services, job_id, "cancelled", timeout=120)
            assert not trainers_of(job_id)
    finally:
        up.kill_all()
        services.database.engine.dispose()
