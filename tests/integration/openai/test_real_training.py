"""A real training, asked for, followed and gone on from by the openai package alone."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path

import openai
import pytest

from opensloth.models.rows import ModelRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import wait_for
from tests.support.tiny_model import make_tiny_model
from tests.support.workers import running_worker

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"trainer_module": Settings.model_fields["trainer_module"].default})


def add_real_model(services: Services, folder: Path) -> None:
    services.storage.put_tree(make_tiny_model(folder), "models/llama")
    row = ModelRow(id="llama", kind="base", status="ready", owner="admin", source="/made", storage_key="models/llama")
    row.created_at = time.time()
    with services.database.write() as session:
        session.add(row)


@pytest.mark.timeout(900)
def test_a_model_is_trained_evaluated_and_trained_on_from_a_checkpoint(
    client: openai.OpenAI, services: Services, settings: Settings, training_file: str, tmp_path: Path
) -> None:
    add_real_model(services, tmp_path / "llama")
    jobs = client.fine_tuning.jobs
    values = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 10}

    def finished(model: str, **more: object) -> object:
        job = jobs.create(
            model=model,
            training_file=training_file,
            method={"type": "supervised", "supervised": {"hyperparameters": values}},
            extra_body={"opensloth": {"fast_model_args": {"max_seq_length": 128}, "sequence_packing": False}},
            **more,
        )
        done = wait_for(lambda: found if (found := jobs.retrieve(job.id)).finished_at else None, 400, 0.5)
        assert done.status == "succeeded", done.error
        return done

    with running_worker(settings, tmp_path):
        first = finished("llama", validation_file=training_file, seed=3)
        assert first.trained_tokens > 0
        assert first.hyperparameters.to_dict() == values
        checkpoints = list(jobs.checkpoints.list(first.id))
        assert [found.step_number for found in checkpoints] == [9, 6, 3]
        assert all(found.metrics.train_loss and found.metrics.full_valid_loss for found in checkpoints)
        rows = list(csv.DictReader(io.StringIO(client.files.content(first.result_files[0]).text)))
        losses = [float(row["train_loss"]) for row in rows if row["train_loss"]]
        assert len(losses) == 9
        assert losses[-1] < losses[0]
        assert any(row["valid_loss"] for row in rows)
        assert any(row["train_accuracy"] for row in rows)

        name = checkpoints[-1].fine_tuned_model_checkpoint
        second = finished(name)
        assert second.model == name
        assert client.models.retrieve(second.fine_tuned_model).base == "llama"
        again = list(jobs.list_events(second.id))
        metrics = [event.data for event in again if event.type == "metrics" and "train_loss" in event.data]
        # It goes on from the first epoch, not from the base.
        assert metrics[-1]["train_loss"] < losses[0]
