"""Jobs on the same data through service, worker and real trainers: prepared once, whoever asks when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opensloth.jobs.views import JobView
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import ADMIN, add_file, add_tiny_model, wait_for_state
from tests.support.training import ROWS
from tests.support.workers import running_worker

BRIEF = {"name": "length", "params": {"unit": "characters", "max": 4, "tolerance": 8}}
OWN: dict[str, dict[str, Any]] = {
    "sft": {},
    "grpo": {"grpo_args": {"num_generations": 2, "max_completion_length": 4, "reward_functions": [BRIEF]}},
}


@pytest.fixture
def settings(patient_settings: Settings) -> Settings:
    return patient_settings


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_two_jobs_at_once_prepare_once_and_a_later_one_not_at_all(
    services: Services, tmp_path: Path, method: str
) -> None:
    add_tiny_model(services)
    dataset = add_file(services, ROWS[method](40))
    body = {
        "dataset": dataset,
        "opensloth_config": {
            "training_type": method,
            "fast_model_args": {"model_name": "tiny", "max_seq_length": 128},
            "eval_split": 0.25,
            **OWN[method],
        },
        "training_args": {"max_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1},
    }
    with running_worker(services.settings, tmp_path):
        together = [services.jobs.submit(body, ADMIN)[0].id for _ in range(2)]
        first, second = (_done(services, job_id) for job_id in together)
        again = {**body, "training_args": body["training_args"] | {"learning_rate": 1e-5}}
        third = _done(services, services.jobs.submit(again, ADMIN)[0].id)
    for split, rows in (("train", 30), ("eval", 10)):
        found = [job.data[split] for job in (first, second, third) if job.data]
        assert sorted(counts["reused"] for counts in found[:2]) == [False, True]
        assert found[2]["reused"]
        assert [counts["rows"] for counts in found] == [rows] * 3
        assert len({counts["tokens"] for counts in found}) == 1


def _done(services: Services, job_id: str) -> JobView:
    job = wait_for_state(services, job_id, "succeeded", "failed", timeout=400)
    assert job.state == "succeeded", job.error
    return job
