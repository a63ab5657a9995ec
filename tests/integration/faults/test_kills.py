"""kill -9 of API, worker and ranks at named moments: nothing is lost, nothing runs twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.faults import BOTH, environment, jobs_there, went_well
from tests.support.http_server import serve
from tests.support.jobs import ADMIN, add_file, add_model, body, submit, wait_for, wait_for_state
from tests.support.up_process import free_port
from tests.support.workers import ROOT, Worker, running_worker, trainers_of


@contextmanager
def dying(settings: Settings, moment: str, log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A part of the service that kills itself at the moment."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.dying", moment, *command],
            cwd=ROOT,
            env=environment(settings),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ended_by_itself(process: subprocess.Popen[bytes], log: Path, timeout: float = 60.0) -> None:
    status = process.wait(timeout)
    assert status == -signal.SIGKILL, log.read_text()[-3000:]


@BOTH
@pytest.mark.parametrize(
    ("moment", "jobs"),
    [("before_commit", 0), pytest.param("before_publish", 1, marks=pytest.mark.slow), ("before_answer", 1)],
)
def test_an_api_that_is_killed_while_it_takes_a_job_makes_one_for_one_key(
    services: Services, settings: Settings, tmp_path: Path, moment: str, jobs: int
) -> None:
    add_model(services)
    spec, headers = body(services, add_file(services)), {"Idempotency-Key": "mine"}
    settings = settings.model_copy(update={"auth": "off"})
    port, log = free_port(), tmp_path / "api.log"
    with dying(settings, moment, log, "uvicorn", "api.main:app", "--port", str(port)) as api:
        assert _post_until_it_dies(f"http://127.0.0.1:{port}/v1/jobs", spec, headers, api) is None
        ended_by_itself(api, log)
    assert jobs_there(services) == jobs
    with serve(settings) as url:
        answers = [httpx.post(f"{url}/v1/jobs", json=spec, headers=headers, timeout=30).json() for _ in range(2)]
    assert answers[0]["id"] == answers[1]["id"]
    assert jobs_there(services) == 1
    if moment == "before_publish":  # nobody was told of it: a worker finds it by itself
        with running_worker(settings, tmp_path):
            went_well(services, answers[0]["id"], 5)


def _post_until_it_dies(url: str, spec: dict[str, Any], headers: dict[str, str], api: Any) -> httpx.Response | None:
    while True:
        try:
            return httpx.post(url, json=spec, headers=headers, timeout=30)
        except httpx.ConnectError:  # not up yet
            if api.poll() is not None:
                return None
            time.sleep(0.05)
        except httpx.TransportError:
            return None


@BOTH
@pytest.mark.parametrize(
    "moment",
    [
        "spawned",
        *(pytest.param(moment, marks=pytest.mark.slow) for moment in ("placed", "taken_up", "before_end", "after_end")),
    ],
)
def test_a_worker_that_is_killed_loses_no_job_and_runs_none_twice(
    services: Services, settings: Settings, tmp_path: Path, moment: str
) -> None:
    log = tmp_path / "dying.log"
    job_id = submit(services, "steps=12 save=4")
    with dying(settings, moment, log, "celery", "-A", "worker.app", "worker") as worker:
        ended_by_itself(worker, log)
    with running_worker(settings, tmp_path):
        went_well(services, job_id, 12)
        assert services.jobs.get(job_id, ADMIN).attempt == (1 if moment == "after_end" else 2)


@BOTH
@pytest.mark.slow
def test_a_worker_that_is_killed_while_a_job_stops_ends_it_as_was_asked(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    log = tmp_path / "dying.log"
    job_id = submit(services, "steps=100000 step_s=0.05")
    with dying(settings, "stopping", log, "celery", "-A", "worker.app", "worker") as worker:
        wait_for_state(services, job_id, "running", timeout=60)
        services.control.pause(job_id, ADMIN)
        ended_by_itself(worker, log)
    with running_worker(settings, tmp_path):
        wait_for_state(services, job_id, "paused", timeout=60)
        wait_for(lambda: not trainers_of(job_id))


@BOTH
@pytest.mark.slow
def test_a_killed_rank_takes_the_other_along_and_the_job_goes_on(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    with running_worker(settings, tmp_path):
        job_id = submit(services, "steps=100000 step_s=0.02 save=5", resources={"gpus": 2})
        wait_for(lambda: services.jobs.checkpoints(job_id, ADMIN), timeout=60)
        first = wait_for(lambda: len(found := trainers_of(job_id)) == 2 and found)
        max(first, key=lambda process: process.create_time()).kill()
        wait_for(lambda: services.jobs.get(job_id, ADMIN).attempt == 2, timeout=60)
        assert not any(process.is_running() for process in first)
        job = wait_for_state(services, job_id, "running", timeout=60)
        events = services.events.list(job_id, limit=10_000)
        started = [event.data["resumed_step"] for event in events if event.type == "started"]
        assert started[0] == 0
        assert started[1] >= 5, "it goes on from a checkpoint"
        assert len(job.devices) == 2
        services.control.cancel(job_id, ADMIN, save=False)
        wait_for_state(services, job_id, "cancelled", timeout=60)


@BOTH
@pytest.mark.slow
def test_a_job_that_takes_its_worker_down_three_times_is_given_up_and_the_queue_goes_on(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    bad = submit(services, "steps=100000 kill_worker@3")
    good = submit(services, "steps=20", priority="low")
    with crashing_worker(settings, tmp_path) as crashes:
        job = wait_for_state(services, bad, "failed", timeout=200)
        assert job.reason == "worker_killed"
        assert job.attempt >= 3
        went_well(services, good, 20)
        assert len(crashes) == job.attempt


@contextmanager
def crashing_worker(settings: Settings, folder: Path) -> Iterator[list[int]]:
    """A worker that is started again each time it dies; gives the times that it did."""
    worker, over, crashes = Worker(settings, folder / "worker.log"), threading.Event(), []

    def keep() -> None:
        while not over.is_set():
            worker.start()
            assert worker.process is not None
            while worker.process.poll() is None and not over.wait(0.05):
                pass
            if worker.process.poll() is not None:
                crashes.append(worker.process.returncode)

    keeper = threading.Thread(target=keep, name="keeper")
    keeper.start()
    try:
        yield crashes
    finally:
        over.set()
        keeper.join()
        worker.stop()
