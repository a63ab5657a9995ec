"""Jobs that standbys take, through a real worker."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from opensloth.jobs.rows import AttemptRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.integration.faults.test_kills import dying, ended_by_itself, went_well
from tests.support.jobs import submit, wait_for, wait_for_state
from tests.support.workers import Worker, running_worker

ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"standby": 1, "lease_s": 10.0, "lease_renew_s": 1.0})


def waiting(settings: Settings) -> list[psutil.Process]:
    """The standbys that the worker keeps."""
    path = settings.home / "standby" / "standbys.json"
    known = json.loads(path.read_text()) if path.exists() else []
    return [psutil.Process(entry["pid"]) for entry in known if psutil.pid_exists(entry["pid"])]


def processes(services: Services, job_id: str, attempt: int = 1) -> list[dict[str, object]]:
    with services.database.read() as session:
        return list(session.get_one(AttemptRow, (job_id, attempt)).processes)


@ONE
def test_jobs_one_after_the_other_each_have_a_process_of_their_own(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"devices": "cpu:1"})
    with running_worker(settings, tmp_path) as worker:
        pids = []
        for _ in range(3):
            (standby,) = wait_for(lambda: waiting(settings), 120)
            job_id = submit(services, "steps=5")
            assert wait_for_state(services, job_id, "succeeded", "failed", timeout=120).state == "succeeded"
            (rank,) = processes(services, job_id)
            assert rank["standby"], worker.log.read_text()[-3000:]
            pids.append(rank["pid"])
            assert rank["pid"] == standby.pid
            psutil.wait_procs([standby], timeout=90)
            assert not standby.is_running()
        assert len(set(pids)) == 3
        (last,) = wait_for(lambda: waiting(settings), 120)
    wait_for(lambda: not psutil.pid_exists(last.pid))


@pytest.mark.slow
@ONE
def test_a_job_on_two_devices_takes_the_standby_of_each(services: Services, settings: Settings, tmp_path: Path) -> None:
    with running_worker(settings, tmp_path):
        wait_for(lambda: len(waiting(settings)) == 2, 120)
        job_id = submit(services, "steps=5", resources={"gpus": 2})
        assert wait_for_state(services, job_id, "succeeded", "failed", timeout=120).state == "succeeded"
        assert [rank["standby"] for rank in processes(services, job_id)] == [True, True]


@ONE
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_a_standby_that_is_gone_or_hangs_costs_the_job_nothing(
    services: Services, settings: Settings, tmp_path: Path, number: int
) -> None:
    settings = settings.model_copy(update={"devices": "cpu:1"})
    with running_worker(settings, tmp_path):
        (standby,) = wait_for(lambda: waiting(settings), 120)
        os.kill(standby.pid, number)
        job_id = submit(services, "steps=5")
        job = wait_for_state(services, job_id, "succeeded", "failed", timeout=120)
        assert (job.state, job.attempt) == ("succeeded", 1), job.error
        assert processes(services, job_id)[0]["pid"] != standby.pid


@ONE
@pytest.mark.slow
def test_standbys_leave_with_a_killed_worker(services: Services, settings: Settings, tmp_path: Path) -> None:
    worker = Worker(settings, tmp_path / "worker.log")
    worker.start()
    standbys = wait_for(lambda: len(found := waiting(settings)) == 2 and found, 120)
    worker.kill()
    assert not psutil.wait_procs(standbys, timeout=90)[1]


@ONE
@pytest.mark.parametrize(
    "moment",
    ["standby_taken", *(pytest.param(moment, marks=pytest.mark.slow) for moment in ("standby_asked", "spawned"))],
)
def test_a_worker_that_is_killed_while_it_hands_over_loses_nothing(
    services: Services, settings: Settings, tmp_path: Path, moment: str
) -> None:
    log = tmp_path / "dying.log"
    with dying(settings, moment, log, "celery", "-A", "worker.app", "worker") as worker:
        standbys = wait_for(lambda: len(found := waiting(settings)) == 2 and found, 120)
        job_id = submit(services, "steps=12 save=4")
        ended_by_itself(worker, log)
        assert not psutil.wait_procs(standbys, timeout=90)[1]
    with running_worker(settings, tmp_path):
        went_well(services, job_id, 12)
