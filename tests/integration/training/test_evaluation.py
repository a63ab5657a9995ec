"""Evaluation on a share of the data, the best weights by its metric, and an end where it no longer gains."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from opensloth.storage import Storage
from opensloth.training.run_spec import RunSpec
from tests.support.training import ROWS, Signal, TrainerHost, log, make_run, next_attempt, records

# As a measure a loss that falls is "worse" with every evaluation when greater counts as better.
FALLING = {"metric_for_best_model": "eval_loss", "greater_is_better": True, "learning_rate": 1e-2, "warmup_steps": 0}
EACH_STEP = {"eval_strategy": "steps", "eval_steps": 1}


def evaluations(spec: RunSpec) -> dict[int, dict[str, float]]:
    """The metrics of each evaluation by step."""
    found = records(spec, "metrics")
    return {record["step"]: record["metrics"] for record in found if "eval_loss" in record["metrics"]}


@pytest.mark.parametrize("training_type", [pytest.param("kto", marks=pytest.mark.slow), "orpo"])
def test_a_share_of_the_rows_is_evaluated_alike_by_one_process_and_by_two(
    training_type: str, tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    measured = []
    for world_size, size in ((1, 5), (2, 2)):
        spec = make_run(
            tmp_path,
            tiny_model,
            training_type,
            name=f"by-{world_size}",
            rows=ROWS[training_type](27),
            config={"eval_split": 0.25, "lora_args": {"r": 4}},
            arguments=EACH_STEP
            | {"per_device_train_batch_size": 4 // world_size, "per_device_eval_batch_size": size, "max_steps": 2},
            world_size=world_size,
        )
        assert trainers.run(spec) == 0, log(spec)
        train, evaluation = records(spec, "data")
        # Two processes cannot share 7 rows evenly.
        assert (train["kept"], evaluation["split"], evaluation["kept"]) == (20, "eval", 7)
        measured.append(evaluations(spec)[2])
    assert measured[0]["eval_rewards/margins"] != 0
    for name, value in measured[0].items():
        if name.startswith(("eval_loss", "eval_rewards", "eval_kl", "eval_nll")):
            assert measured[1][name] == pytest.approx(value, rel=1e-4, abs=1e-7), name


def test_the_best_weights_are_kept_and_are_the_result(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    arguments = FALLING | EACH_STEP | {"max_steps": 5, "load_best_model_at_end": True, "save_total_limit": 1}
    spec = make_run(tmp_path, tiny_model, config={"eval_split": 0.2}, arguments=arguments, checkpoint_interval_s=0.0)
    assert trainers.run(spec) == 0, log(spec)
    assert sorted(evaluations(spec)) == [1, 2, 3, 4, 5]
    keys = Storage(spec.storage_url).list_keys(spec.checkpoint_key)
    assert keys[0] == "step-00000001"
    best = load_file(_folder(spec, f"{spec.checkpoint_key}/{keys[0]}") / "adapter_model.safetensors")
    result = load_file(_folder(spec, spec.artifact_key) / "adapter_model.safetensors")
    assert best.keys() == result.keys()
    for name, weight in best.items():
        torch.testing.assert_close(weight, result[name])


@pytest.mark.parametrize("killed", [False, True])
def test_training_ends_where_evaluations_gain_no_more(
    killed: bool, tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    config = {"eval_split": 0.2, "early_stopping_patience": 2}
    arguments = FALLING | EACH_STEP | {"max_steps": 20, "save_steps": 1}
    spec = make_run(tmp_path, tiny_model, config=config, arguments=arguments)
    if killed:
        assert trainers.run(spec, Signal(SIGKILL, phase="saving")) == -SIGKILL, log(spec)
        spec = next_attempt(spec, step=3)
    assert trainers.run(spec) == 0, log(spec)
    assert records(spec, "result")
    assert sorted(evaluations(spec)) == ([] if killed else [1, 2, 3])


def test_two_processes_evaluate_at_each_epoch(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"num_train_epochs": 2, "load_best_model_at_end": True}
    spec = make_run(tmp_path, tiny_model, "dpo", config={"eval_split": 0.2}, arguments=arguments, world_size=2)
    assert trainers.run(spec) == 0, log(spec)
    assert len(evaluations(spec)) == 2
    assert records(spec, "result")


def _folder(spec: RunSpec, key: str) -> Path:
    path = Storage(spec.storage_url).local_path(key)
    assert path is not None
    return path
