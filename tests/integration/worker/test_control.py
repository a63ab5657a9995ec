"""Pause, resume and cancel through a real worker; with a real trainer the loss curve shows no trace of a pause."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensloth.jobs.views import JobView
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import ADMIN, add_file, body, submit, wait_for, wait_for_state
from tests.support.training import sft_rows
from tests.support.workers import running_worker, trainers_of

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
STEPS = 300


def wait_for_step(services: Services, job_id: str, step: int) -> JobView:
    def reached() -> JobView | None:
        job = services.jobs.get(job_id, ADMIN)
        return job if job.progress is not None and job.progress.step >= step else None

    found: JobView = wait_for(reached, 120)
    return found


def test_a_paused_job_gives_its_device_back_and_goes_on_where_it_was(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    one_device = settings.model_copy(update={"devices": "cpu:1"})
    with running_worker(one_device, tmp_path):
        first = submit(services, "steps=4000 step_s=0.05")
        second = submit(services, "steps=4000 step_s=0.05")
        wait_for_step(services, first, 3)
        services.control.pause(first, ADMIN)
        paused = wait_for_state(services, first, "paused", timeout=90)
        assert (paused.reason, paused.devices != []) == ("paused", True)
        assert trainers_of(first) == []
        (checkpoint,) = services.jobs.checkpoints(first, ADMIN)
        wait_for_step(services, second, 2)
        assert services.control.resume(first, ADMIN).state == "queued"
        services.control.cancel(second, ADMIN, save=False)
        assert wait_for_state(services, second, "cancelled", timeout=90).reason == "cancelled"
        assert services.jobs.checkpoints(second, ADMIN) == []
        wait_for_step(services, first, checkpoint.step + 2)
        assert services.jobs.get(first, ADMIN).attempt == 2
        services.control.cancel(first, ADMIN, save=False)
        wait_for_state(services, first, "cancelled", timeout=90)
        (series,) = services.jobs.metrics(first, ADMIN, ["loss"])
        steps = [point["step"] for point in series["points"]]
        assert steps == list(range(1, len(steps) + 1))
        assert trainers_of(first) == trainers_of(second) == []


@pytest.mark.slow
def test_the_loss_curve_of_a_paused_job_is_that_of_one_that_was_never_paused(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    real = settings.model_copy(
        update={
            "trainer_module": "opensloth.training.main",
            "lease_s": 30.0,
            "lease_renew_s": 5.0,
            "stop_grace_s": 60.0,
        }
    )
    never, paused = (submit_real(services, tmp_path) for _ in range(2))
    with running_worker(real, tmp_path):
        wait_for_step(services, paused, 5)
        services.control.pause(paused, ADMIN)
        job = wait_for_state(services, paused, "paused", "succeeded", timeout=120)
        assert job.state == "paused", "the job was over before it could be paused"
        assert job.progress is not None
        assert 5 <= job.progress.step < STEPS
        services.control.resume(paused, ADMIN)
        for job_id in (never, paused):
            job = wait_for_state(services, job_id, "succeeded", "failed", timeout=240)
            assert job.state == "succeeded", job.error
    expected, found = (loss_of(services, job_id) for job_id in (never, paused))
    assert list(found) == list(expected) == list(range(1, STEPS + 1))
    assert [found[step] for step in found] == pytest.approx([expected[step] for step in expected], abs=1e-4)
    assert services.jobs.get(paused, ADMIN).attempt == 2


def submit_real(services: Services, folder: Path) -> str:
    from opensloth.models.rows import ModelRow
    from tests.support.exports import register_base
    from tests.support.tiny_model import make_tiny_model

    with services.database.read() as session:
        known = session.get(ModelRow, "tiny") is not None
    if not known:
        register_base(services, make_tiny_model(folder / "tiny"))
    arguments = {"max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    spec = body(services, add_file(services, sft_rows(48)), "curve", training_args={**arguments, "logging_steps": 1})
    spec["training_args"]["learning_rate"] = 1e-3
    return services.jobs.submit(spec, ADMIN)[0].id


def loss_of(services: Services, job_id: str) -> dict[int, float]:
    (series,) = services.jobs.metrics(job_id, ADMIN, ["loss"])
    return {point["step"]: point["value"] for point in series["points"]}
