"""A sixth training type, registered by a module outside the package, through service, worker and a real trainer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from opensloth.datasets import forms
from opensloth.errors import InvalidInput
from opensloth.methods import METHODS
from opensloth.services import Services
from opensloth.settings import Settings
from opensloth.trainer_factory import trainer_factory_map
from tests.support import best_rows
from tests.support.jobs import ADMIN, add_file, add_tiny_model, wait_for_state
from tests.support.workers import running_worker

NAME = "best_rows"


@pytest.fixture
def settings(patient_settings: Settings) -> Iterator[Settings]:
    yield patient_settings.model_copy(update={"plugins": "tests.support.best_rows"})
    for registry in (METHODS, forms.METHODS, trainer_factory_map):
        registry.pop(NAME, None)


@pytest.mark.slow
def test_a_sixth_type_from_outside_is_checked_queued_and_trained(services: Services, tmp_path: Path) -> None:
    assert len(Path(best_rows.__file__).read_text().splitlines()) < 30
    add_tiny_model(services)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
    dataset = add_file(services, [{"messages": chat, "score": n / 10} for n in range(10)])
    config = {
        "training_type": NAME,
        "fast_model_args": {"model_name": "tiny", "max_seq_length": 64},
        "method_args": {"least": 0.7},
        "sequence_packing": False,
    }
    arguments = {"max_steps": 2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    body = {"dataset": dataset, "opensloth_config": config, "training_args": arguments}
    with pytest.raises(InvalidInput, match=r"method_args\.least"):
        services.jobs.submit({**body, "opensloth_config": config | {"method_args": {"least": "high"}}}, ADMIN)

    job_id = services.jobs.submit(body, ADMIN)[0].id
    with running_worker(services.settings, tmp_path):
        job = wait_for_state(services, job_id, "succeeded", "failed", timeout=180)
    assert job.state == "succeeded", job.error
    assert job.resolved is not None
    assert job.resolved["opensloth_config"]["method_args"] == {"least": 0.7}
    assert job.data is not None
    assert job.data["train"]["rows"] == 3
