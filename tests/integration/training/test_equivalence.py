"""What the loss is, whatever the batch, the accumulation and the number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from opensloth.training.run_spec import RunSpec
from tests.support.training import ROWS, TrainerHost, curve, log, make_run, records

SHAPES: dict[str, dict[str, int]] = {
    "one process": {"batch": 8, "accumulation": 1, "world_size": 1},
    "accumulation": {"batch": 4, "accumulation": 2, "world_size": 1},
    "two processes": {"batch": 4, "accumulation": 1, "world_size": 2},
    "two processes with accumulation": {"batch": 2, "accumulation": 2, "world_size": 2},
}
# Of 21 rows the last step of an epoch has 5, which two processes cannot share evenly: 4 and 1; of 23 it has 4 and 3.
METHODS = (
    ("dpo", 23),
    *(pytest.param(method, 21, marks=pytest.mark.slow) for method in ("sft", "dpo", "kto", "orpo")),
)


@pytest.mark.parametrize(("training_type", "row_count"), METHODS)
def test_the_loss_is_that_of_the_global_batch(
    training_type: str, row_count: int, tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    runs = {name: _run(training_type, row_count, name, shape, tiny_model, tmp_path) for name, shape in SHAPES.items()}
    for run in runs.values():
        assert trainers.run(run) == 0, log(run)
    expected = curve(runs["one process"])
    assert len(expected) == 6
    for name, run in runs.items():
        got = curve(run)
        assert got.keys() == expected.keys()
        for step, values in expected.items():
            assert got[step] == pytest.approx(values, rel=1e-4), f"{name}, step {step}"
        last = [records(some, "metrics")[-1] for some in (run, runs["one process"])]
        if training_type == "kto":
            assert last[0]["metrics"]["kl"] > 0
        for metric in ("kl", "rewards/margins", "nll_loss", "log_odds_chosen"):
            if training_type in ("kto", "orpo") and metric in last[1]["metrics"]:
                assert last[0]["metrics"][metric] == pytest.approx(last[1]["metrics"][metric], rel=1e-3, abs=1e-6)


def _run(training_type: str, row_count: int, name: str, shape: dict[str, int], model: Path, folder: Path) -> RunSpec:
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": shape["batch"],
        "gradient_accumulation_steps": shape["accumulation"],
        "num_train_epochs": 2,
        "learning_rate": 2e-2,
        "warmup_steps": 0,
    }
    return make_run(
        folder,
        model,
        training_type,
        name=name.replace(" ", "-"),
        rows=ROWS[training_type](row_count),
        config={"sequence_packing": False, "lora_args": {"r": 8}},
        arguments=arguments,
        world_size=shape["world_size"],
    )
