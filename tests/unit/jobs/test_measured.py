"""What an attempt used is kept, and later estimates learn from one that succeeded."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from opensloth.devices.rows import ShapeRow
from opensloth.jobs.attempts import AttemptService
from opensloth.jobs.endings import End
from opensloth.jobs.planning import plan_round
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import submit
from worker.host import Host

GIB = 1 << 30
RESULT = {"key": "jobs/x/artifacts", "artifacts": [], "base": "tiny"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"host_timeout_s": 600.0, "lease_s": 600.0})  # no worker runs here


@pytest.fixture
def placed(services: Services) -> tuple[AttemptService, str]:
    Host(services)._register()
    job_id = submit(services)
    attempts = AttemptService(services.database, services.events, services.publisher, services.settings)
    assert plan_round(services.database, services.events, services.publisher, services.settings) == 1
    attempts.take_up("box")
    with services.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(shape="a-shape"))
    started = {"type": "started", "message": "", "data": {"resumed_step": 0}}
    assert attempts.record(job_id, 1, [started], 0, 10)
    return attempts, job_id


def test_a_job_that_succeeded_teaches_its_shape(services: Services, placed: tuple[AttemptService, str]) -> None:
    attempts, job_id = placed
    attempts.end(job_id, 1, End("succeeded", result=RESULT, peak_bytes=7 * GIB, step_s=0.5))
    with services.database.read() as session:
        attempt = session.get_one(AttemptRow, (job_id, 1))
        learnt = session.get_one(ShapeRow, "a-shape")
    assert attempt.peak_bytes == 7 * GIB
    assert attempt.first_step_at is not None
    assert (learnt.peak_bytes, learnt.step_s, learnt.jobs) == (7 * GIB, 0.5, 1)
    assert learnt.start_s == pytest.approx(attempt.first_step_at - attempt.placed_at)


def test_a_job_that_failed_teaches_nothing_and_its_peak_is_kept(
    services: Services, placed: tuple[AttemptService, str]
) -> None:
    attempts, job_id = placed
    attempts.end(job_id, 1, End("failed", "cuda_oom", peak_bytes=9 * GIB))
    with services.database.read() as session:
        assert session.get_one(AttemptRow, (job_id, 1)).peak_bytes == 9 * GIB
        assert session.get(ShapeRow, "a-shape") is None


def test_a_device_error_of_a_suspect_is_charged(services: Services, placed: tuple[AttemptService, str]) -> None:
    attempts, job_id = placed
    attempts.end(job_id, 1, End("failed", "device_error", charged=True))
    with services.database.read() as session:
        job = session.get_one(JobRow, job_id)
    assert (job.state, job.retries) == ("queued", 1)
