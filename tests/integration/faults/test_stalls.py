"""A run that stands still is ended, says where it stood, and is tried again; a slow save is no stall."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from opensloth.training.pulse import SAVING, read_pulse
from tests.support.jobs import ADMIN, submit, wait_for, wait_for_state
from tests.support.workers import running_worker, trainers_of


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"stall_s": 1.5})


def test_a_run_that_stands_still_is_tried_again_with_its_stacks_on_the_job(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    with running_worker(settings, tmp_path):
        job_id = submit(services, "steps=12 save=3 hang@8")
        job = wait_for_state(services, job_id, "succeeded", "failed", timeout=60)
        assert job.state == "succeeded", job.error
        events = services.events.list(job_id, limit=1000)
        (stalled,) = [event for event in events if event.type == "stalled"]
        assert "stand_still" in stalled.data["stacks"]["0"]
        assert "Thread" in stalled.data["stacks"]["0"]
        assert "stalled" in [event.data["reason"] for event in events if event.type == "state"]
        assert [event.data["resumed_step"] for event in events if event.type == "started"] == [0, 6]


@pytest.mark.slow
def test_a_rank_that_is_stopped_cannot_answer_and_is_ended_all_the_same(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    with running_worker(settings, tmp_path):
        job_id = submit(services, "steps=100000", max_retries=0)
        wait_for_state(services, job_id, "running")
        for process in trainers_of(job_id):
            process.send_signal(signal.SIGSTOP)
        job = wait_for_state(services, job_id, "succeeded", "failed", timeout=60)
        assert (job.state, job.reason) == ("failed", "stalled")
        assert job.error is not None
        assert "the process is stopped" in str(job.error.log_tail)
        assert not trainers_of(job_id)


@pytest.mark.slow
def test_a_save_may_take_longer_than_a_step_and_longer_than_the_grace(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    patient = settings.model_copy(update={"stop_grace_s": 1.0, "stall_s": 60.0})
    with running_worker(patient, tmp_path):
        job_id = submit(services, "steps=100000 save=1 save_s=5")
        wait_for(lambda: read_pulse(settings.runs / job_id / "1").doing == SAVING, timeout=60)
        services.control.pause(job_id, ADMIN)
        wait_for_state(services, job_id, "paused", timeout=60)
        assert services.jobs.checkpoints(job_id, ADMIN), "it was killed while it saved"
        wait_for(lambda: not trainers_of(job_id))
