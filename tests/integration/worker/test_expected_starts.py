"""What jobs were told at submission, against what happened with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.boxes import set_row
from tests.support.jobs import ADMIN, add_file, add_model, body, wait_for, wait_for_state
from tests.support.workers import running_worker

JOBS = [(16.0, 1), (28.0, 2), (10.0, 1), (20.0, 1), (12.0, 4), (8.0, 1), (24.0, 2), (14.0, 1), (10.0, 2), (18.0, 1)]
"""Seconds of steps and devices, in the order of submission."""
START_S = 2.0
"""From placement to the first step, about."""
STEP_S = 0.1
SHORTENED = 8
"""A second here stands for so many of a real job, whose two minutes of tolerance are then fifteen seconds."""
PATIENT = {"lease_s": 60.0, "lease_renew_s": 5.0, "host_timeout_s": 60.0}
"""On a busy machine no attempt is lost: that is for other tests."""


@pytest.mark.slow
def test_most_jobs_start_when_they_were_told_at_submission(services: Services, settings: Settings, tmp_path: Path):
    add_model(services)
    file = add_file(services)
    jobs = [submit(services, file, seconds, devices) for seconds, devices in JOBS]
    with running_worker(settings.model_copy(update={"devices": "cpu:4", **PATIENT}), tmp_path):
        for job_id in jobs:
            wait_for_state(services, job_id, "succeeded", timeout=280)
    with services.database.read() as session:
        told = {row.id: row.promised_start or 0.0 for row in session.scalars(select(JobRow))}
        queued = {row.id: row.queued_at or 0.0 for row in session.scalars(select(JobRow))}
        started = {row.job_id: row.placed_at for row in session.scalars(select(AttemptRow))}
    first = min(started.values())
    waited = [job_id for job_id in jobs if started[job_id] > first + 1.0]
    assert len(waited) >= 5
    late = {job_id: round(started[job_id] - told[job_id], 1) for job_id in jobs}
    right = [
        job_id
        for job_id in jobs
        if abs(late[job_id]) <= max(120.0 / SHORTENED, 0.2 * (told[job_id] - max(queued[job_id], first)))
    ]
    assert len(right) >= 0.8 * len(jobs), list(late.values())


def submit(services: Services, file: str, seconds: float, devices: int) -> str:
    """A job with devices to itself that is known to take so long."""
    name = f"steps={round(seconds / STEP_S)} step_s={STEP_S}"
    resources = {"gpus": devices, "exclusive": True}
    job_id = services.jobs.submit(body(services, file, name, resources=resources), ADMIN)[0].id
    set_row(services, JobRow, job_id, expected_s=seconds + START_S)
    return job_id


def test_a_job_that_waits_is_told_by_the_job_that_runs(services: Services, settings: Settings, tmp_path: Path):
    add_model(services)
    file = add_file(services)
    with running_worker(settings.model_copy(update={"devices": "cpu:1", **PATIENT}), tmp_path):
        runs = submit(services, file, 600.0, 1)
        wait_for(lambda: services.jobs.get(runs, ADMIN).progress or None)
        waits = submit(services, file, 1.0, 1)
        wait_for(lambda: services.jobs.get(waits, ADMIN).promised_start)
        told = wait_for(lambda: services.jobs.get(waits, ADMIN).queue)
        assert (told.position, told.waiting_for.split(" is ")[0]) == (1, "1 CPU slot; 0 free; it")
        assert told.waiting_for.endswith(f"from {runs}")
        services.control.cancel(runs, ADMIN)
        job = wait_for_state(services, waits, "succeeded")
        assert job.queue is None
