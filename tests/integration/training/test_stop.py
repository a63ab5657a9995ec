"""SIGTERM at any moment: a checkpoint where there is something to keep, and an exit code that says what happened."""

from __future__ import annotations

from pathlib import Path
from signal import SIGTERM

import pytest

from opensloth.storage import Storage
from tests.support.training import Signal, TrainerHost, log, make_run, records

STOPPED = 10


@pytest.mark.parametrize("phase", [pytest.param("loading_model", marks=pytest.mark.slow), "preparing_data", "training"])
def test_before_the_first_step_a_stop_ends_the_trainer_at_once(
    phase: str, tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    spec = make_run(tmp_path, tiny_model)
    assert trainers.run(spec, Signal(SIGTERM, phase=phase)) == STOPPED, log(spec)
    stopped = records(spec, "stopped")
    if phase == "training":  # the ranks have agreed to train: one step is made and kept
        assert stopped == [{"step": 1, "complete": False}]
    else:
        assert stopped == [{"step": 0, "complete": False}]
        assert not records(spec, "checkpoint")


def test_in_training_a_stop_saves_a_checkpoint_after_the_step(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    spec = make_run(tmp_path, tiny_model)
    assert trainers.run(spec, Signal(SIGTERM, step=2)) == STOPPED, log(spec)
    (checkpoint,) = records(spec, "checkpoint")
    assert records(spec, "stopped") == [{"step": checkpoint["step"], "complete": False}]
    assert checkpoint["step"] == 3
    files = Storage(spec.storage_url).verify_tree(checkpoint["key"])
    assert checkpoint["bytes"] == sum(file.bytes for file in files)
    assert not any(file.name == "training_args.bin" for file in files)


def test_a_stop_while_a_checkpoint_is_saved_needs_no_second_one(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    spec = make_run(tmp_path, tiny_model, arguments={"save_steps": 2})
    # The metrics of a step are written just before its checkpoint is.
    assert trainers.run(spec, Signal(SIGTERM, step=2)) == STOPPED, log(spec)
    assert [checkpoint["step"] for checkpoint in records(spec, "checkpoint")] == [2]
    assert records(spec, "stopped") == [{"step": 2, "complete": False}]


@pytest.mark.parametrize("signal", [Signal(SIGTERM, step=3), Signal(SIGTERM, phase="saving")])
def test_a_stop_after_the_last_step_lets_the_run_finish(
    signal: Signal, tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    spec = make_run(tmp_path, tiny_model, arguments={"max_steps": 3})
    assert trainers.run(spec, signal) == 0, log(spec)
    assert records(spec, "result")
    assert not records(spec, "stopped")


def test_a_stop_ends_an_evaluation(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    spec = make_run(tmp_path, tiny_model, arguments={"eval_strategy": "steps", "eval_steps": 2})
    spec = spec.model_copy(update={"eval_dataset": spec.dataset})
    (Path(spec.run_dir) / "run.json").write_text(spec.model_dump_json())
    # The metrics of step 2 are written before its evaluation begins.
    assert trainers.run(spec, Signal(SIGTERM, step=2)) == STOPPED, log(spec)
    assert [checkpoint["step"] for checkpoint in records(spec, "checkpoint")] == [2]
    assert not any("eval_loss" in record["metrics"] for record in records(spec, "metrics"))


def test_checkpoints_come_by_time(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    spec = make_run(tmp_path, tiny_model, checkpoint_interval_s=0.0, arguments={"max_steps": 4, "save_total_limit": 2})
    assert trainers.run(spec) == 0, log(spec)
    saved = records(spec, "checkpoint")
    assert [checkpoint["step"] for checkpoint in saved] == [1, 2, 3]
    assert all(checkpoint["save_s"] > 0 for checkpoint in saved)
    assert saved[-1]["removed"] == [f"{spec.checkpoint_key}/step-00000001"]
    # The worker removes it once the database knows of the third; until then it may be the newest that counts.
    assert len(Storage(spec.storage_url).list_keys(spec.checkpoint_key)) == 3
