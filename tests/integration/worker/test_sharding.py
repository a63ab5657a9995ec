"""A job that trains all weights in shards on two devices, through service, worker and real ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import ADMIN, add_file, add_tiny_model, wait_for, wait_for_state
from tests.support.training import sft_rows
from tests.support.workers import running_worker, trainers_of


@pytest.fixture
def settings(patient_settings: Settings) -> Settings:
    return patient_settings


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_rank_takes_the_job_down_which_goes_on_from_its_checkpoint(services: Services, tmp_path: Path) -> None:
    add_tiny_model(services)
    body = {
        "dataset": add_file(services, sft_rows(24)),
        "opensloth_config": {
            "training_type": "sft",
            "fast_model_args": {"model_name": "tiny", "max_seq_length": 64, "full_finetuning": True},
            "shard_weights": True,
        },
        "training_args": {
            "max_steps": 150,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "save_steps": 5,
            "logging_steps": 1,
        },
        "resources": {"gpus": 2},
    }
    job_id = services.jobs.submit(body, ADMIN)[0].id
    with running_worker(services.settings, tmp_path):
        wait_for(lambda: services.jobs.checkpoints(job_id, ADMIN), 240, 0.1)
        ranks = sorted(trainers_of(job_id), key=lambda process: process.pid)
        assert len(ranks) == 2
        ranks[1].kill()
        job = wait_for_state(services, job_id, "succeeded", "failed", timeout=300)
    assert job.state == "succeeded", f"{job.error}\n{_logs(services, job_id)}"
    moved = [event.data["reason"] for event in services.events.list(job_id, limit=10_000) if event.type == "state"]
    assert "trainer_killed" in moved
    began = [event.data for event in services.events.list(job_id, limit=10_000) if event.type == "started"]
    assert began[1]["resumed_step"] >= 5
    folder = services.storage.local_path(f"jobs/{job_id}/artifacts")
    assert folder is not None
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]


def _logs(services: Services, job_id: str) -> str:
    return "\n".join(
        path.read_text()[-3000:] for path in services.settings.home.rglob("trainer.log") if job_id in str(path)
    )
