"""GRPO with rewards: its metrics, what a failing reward does, and a checkpoint between two samplings."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from opensloth.storage import Storage
from opensloth.training.run_spec import RunSpec
from tests.support.training import Signal, TrainerHost, curve, grpo_rows, log, make_run, next_attempt, records

LENGTH = {"name": "length", "params": {"target": 4, "unit": "characters", "tolerance": 8}}


def grpo_run(folder: Path, model: Path, *, name: str = "run", rewards: Any = (LENGTH,), **options: Any) -> RunSpec:
    """Three steps of two prompts with four answers of up to eight tokens each, unless told otherwise."""
    grpo = {"num_generations": 4, "max_completion_length": 8, "reward_functions": list(rewards)}
    grpo |= options.pop("grpo", {})
    arguments = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 3}
    arguments |= options.pop("arguments", {})
    rows = options.pop("rows", None) or grpo_rows(8)
    config = {"grpo_args": grpo, "lora_args": {"r": 4}}
    return make_run(folder, model, "grpo", name=name, rows=rows, config=config, arguments=arguments, **options)


def test_the_metrics_name_each_reward(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    two = [LENGTH, {"name": "exact_match", "weight": 0.5}]
    spec = grpo_run(tmp_path, tiny_model, rewards=two, grpo={"beta": 0.05})
    assert trainers.run(spec) == 0, log(spec)
    metrics = records(spec, "metrics")
    assert [record["step"] for record in metrics] == [1, 2, 3]
    for record in metrics:
        values = record["metrics"]
        own = values["rewards/length/mean"] + 0.5 * values["rewards/exact_match/mean"]
        assert values["reward"] == pytest.approx(own, abs=1e-5)
        assert 0 < values["completions/mean_length"] <= 8
        assert values["kl"] >= 0
        assert values["samples_per_second"] > 0
    (result,) = records(spec, "result")
    assert result["metrics"]["samples"] == 3 * 8
    assert result["metrics"]["train_runtime"] > 0


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_reward_that_fails_is_named_and_ends_all_ranks(
    world_size: int, tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    folder = tmp_path / "rewards"
    folder.mkdir()
    # Of the answers to prompt 3 the score is NaN, which one rank alone sees.
    (folder / "picky.py").write_text(
        "def reward(completions, rows):\n    return [float('nan') if row['answer'] == '3' else 0.5 for row in rows]\n"
    )
    arguments = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "num_train_epochs": 1}
    spec = grpo_run(
        tmp_path,
        tiny_model,
        rewards=["file:picky"],
        arguments=arguments | {"max_steps": -1},
        world_size=world_size,
        rewards_dir=str(folder),
    )
    processes = [trainers.start(spec, rank) for rank in range(world_size)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [20] * world_size, log(spec)
    (failure,) = records(spec, "failure")
    assert failure["code"] == "reward_failed"
    assert "'file:picky'" in failure["message"]
    assert "nan" in failure["message"]


def test_a_reward_that_the_server_does_not_allow_is_refused(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    spec = grpo_run(tmp_path, tiny_model, rewards=[{"name": "http", "params": {"url": "http://127.0.0.1:9/score"}}])
    assert trainers.run(spec) == 20, log(spec)
    (failure,) = records(spec, "failure")
    assert failure["code"] == "invalid_arguments"
    assert "OPENSLOTH_REWARD_URLS" in failure["message"]


def test_a_row_without_what_a_reward_reads_is_named(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    rows = [*grpo_rows(4), {"prompt": "Say it"}]
    spec = grpo_run(tmp_path, tiny_model, rewards=["exact_match"], rows=rows)
    assert trainers.run(spec) == 20, log(spec)
    (failure,) = records(spec, "failure")
    assert failure["code"] == "dataset_error"
    assert "row 5" in failure["message"]
    assert "answer" in failure["message"]


@pytest.mark.slow
def test_killed_between_two_samplings_it_resumes_as_uninterrupted(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "grpo": {"num_iterations": 2, "beta": 0.05},
        # Two epochs of four samplings, each trained on in two steps; the checkpoint is in the second epoch.
        "arguments": {"max_steps": 12, "save_steps": 9, "learning_rate": 1e-2},
    }
    whole = grpo_run(tmp_path, tiny_model, name="whole", **options)
    killed = grpo_run(tmp_path, tiny_model, name="killed", **options)
    assert trainers.run(whole) == 0, log(whole)
    assert trainers.run(killed, Signal(SIGKILL, step=10)) == -SIGKILL, log(killed)
    resumed = next_attempt(killed, step=9)
    assert trainers.run(resumed) == 0, log(resumed)
    expected, got = curve(whole), curve(killed, resumed)
    assert got.keys() == expected.keys()
    for step, values in expected.items():
        assert got[step] == pytest.approx(values, rel=1e-5, abs=1e-7), f"step {step}"
    one, other = (load_file(_result(spec) / "adapter_model.safetensors") for spec in (whole, resumed))
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-5, atol=1e-7)


def _result(spec: RunSpec) -> Path:
    path = Storage(spec.storage_url).local_path(spec.artifact_key)
    assert path is not None
    return path
