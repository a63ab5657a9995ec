"""Two processes train what one does at the same global batch, and end together."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest

from tests.support.training import Signal, TrainerHost, curve, dpo_rows, log, make_run, next_attempt, records


def test_without_clipping_gradients_are_averaged_as_well(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    arguments = {"max_grad_norm": 0.0, "max_steps": 3}
    one = make_run(tmp_path, tiny_model, "dpo", name="one", arguments=_batch(4) | arguments)
    two = make_run(tmp_path, tiny_model, "dpo", name="two", arguments=_batch(2) | arguments, world_size=2)
    assert trainers.run(one) == 0, log(one)
    assert trainers.run(two) == 0, log(two)
    for step, values in curve(one).items():
        assert curve(two)[step] == pytest.approx(values, rel=1e-4)


def test_killed_and_resumed_two_processes_train_as_uninterrupted(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "arguments": _batch(2) | {"save_steps": 4, "num_train_epochs": 2},  # an epoch has 6 steps
        "rows": dpo_rows(22),  # of which the last does not go round both
        "config": {"lora_args": {"lora_dropout": 0.1}},
        "world_size": 2,
    }
    whole = make_run(tmp_path, tiny_model, "dpo", name="whole", **options)
    killed = make_run(tmp_path, tiny_model, "dpo", name="killed", **options)
    assert trainers.run(whole) == 0, log(whole)
    assert trainers.run(killed, Signal(SIGKILL, step=9)) == -SIGKILL, log(killed)
    resumed = next_attempt(killed, step=8)
    assert trainers.run(resumed) == 0, log(resumed)
    expected, got = curve(whole), curve(killed, resumed)
    assert got.keys() == expected.keys()
    for step, values in expected.items():
        assert got[step] == pytest.approx(values, rel=1e-5), f"step {step}"


def test_a_stop_ends_both_ranks_after_the_same_step(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    spec = make_run(tmp_path, tiny_model, "dpo", arguments=_batch(2), world_size=2)
    processes = [
        trainers.start(spec, 0),
        trainers.start(spec, 1, Signal(SIGTERM, step=2)),  # one rank alone hears it
    ]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [10, 10], log(spec)
    assert records(spec, "stopped") == [{"step": 3, "complete": False}]
    assert [checkpoint["step"] for checkpoint in records(spec, "checkpoint")] == [3]


def test_a_non_finite_loss_ends_both_ranks(broken_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    spec = make_run(tmp_path, broken_model, arguments=_batch(2), world_size=2)
    processes = [trainers.start(spec, rank) for rank in (0, 1)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [20, 20], log(spec)
    (failure,) = records(spec, "failure")
    assert failure["code"] == "nan_loss"


def _batch(size: int) -> dict[str, object]:
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": 1, "num_train_epochs": 1}
