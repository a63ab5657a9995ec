"""Two processes that hold a part of the model each train all its weights as one process does, and save it whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from opensloth.storage import Storage
from opensloth.training.run_spec import RunSpec
from tests.support.training import Signal, TrainerHost, curve, log, make_run, next_attempt, records

FULL: dict[str, Any] = {"fast_model_args": {"full_finetuning": True}}
SHARDED: dict[str, Any] = FULL | {"shard_weights": True}


@pytest.fixture(scope="module")
def tied_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, its output layer tied to its embeddings."""
    folder = tmp_path_factory.mktemp("tied")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return folder


def test_shards_train_as_one_process_and_leave_a_whole_model(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    _compare(tiny_model, trainers, tmp_path, {"save_steps": 2})


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"gradient_accumulation_steps": 2},
        {"max_grad_norm": 0.0, "optim": "sgd"},
        {"gradient_checkpointing": True, "optim": "rmsprop"},
        {"load_best_model_at_end": True, "eval_steps": 2, "save_steps": 2, "learning_rate": 0.1},
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_shards_of_tied_weights_train_as_one_process(
    arguments: dict[str, Any], tied_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    _compare(tied_model, trainers, tmp_path, arguments)


@pytest.mark.slow
def test_in_bfloat16_shards_train_nearly_as_in_float32(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    exact = make_run(tmp_path, tiny_model, name="exact", config=SHARDED, arguments=_batch(2), world_size=2)
    mixed = make_run(
        tmp_path, tiny_model, name="mixed", config=SHARDED, arguments=_batch(2) | {"bf16": True}, world_size=2
    )
    for spec in (exact, mixed):
        assert trainers.run(spec) == 0, log(spec)
    for step, (loss, _) in curve(exact).items():
        assert curve(mixed)[step][0] == pytest.approx(loss, rel=0.03)
        assert curve(mixed)[step][0] != loss
    assert {weight.dtype for weight in _weights(_folder(mixed, mixed.artifact_key)).values()} == {torch.float32}


@pytest.mark.slow
def test_when_one_rank_is_killed_the_next_attempt_goes_on_as_if_nothing_had_happened(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"config": SHARDED, "arguments": _batch(2) | {"save_steps": 2}, "world_size": 2}
    whole = make_run(tmp_path, tiny_model, name="whole", **options)
    killed = make_run(tmp_path, tiny_model, name="killed", **options)
    assert trainers.run(whole) == 0, log(whole)
    survivor, victim = trainers.start(killed, 0), trainers.start(killed, 1, Signal(SIGKILL, step=3))
    for process in (victim, survivor):
        process.join(120)
    assert victim.exitcode == -SIGKILL
    assert survivor.exitcode == 20, log(killed)

    resumed = next_attempt(killed, step=2)
    assert trainers.run(resumed) == 0, log(resumed)
    assert records(resumed, "started")[0]["resumed_step"] == 2
    assert curve(resumed).keys() == {step for step in curve(whole) if step > 2}
    for step, values in curve(resumed).items():
        assert values == pytest.approx(curve(whole)[step], rel=1e-6), f"step {step}"
    _same(_weights(_folder(whole, whole.artifact_key)), _weights(_folder(resumed, resumed.artifact_key)), 1e-6)


@pytest.mark.slow
def test_killed_after_its_last_checkpoint_it_only_writes_its_result(
    tied_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    arguments = _batch(2) | {"save_steps": 2, "max_steps": 4}
    killed = make_run(tmp_path, tied_model, config=SHARDED, arguments=arguments, world_size=2)
    assert trainers.run(killed, Signal(SIGKILL, phase="saving")) == -SIGKILL, log(killed)
    resumed = next_attempt(killed, step=4)
    assert trainers.run(resumed) == 0, log(resumed)
    assert not records(resumed, "started")
    saved = _weights(_folder(killed, f"{killed.checkpoint_key}/step-00000004"))
    _same(saved, _weights(_folder(resumed, resumed.artifact_key)), 0)


def _compare(model: Path, trainers: TrainerHost, folder: Path, arguments: dict[str, Any]) -> None:
    given = _batch(4) | {"learning_rate": 1e-3} | arguments
    split = {"eval_split": 0.25} if "eval_steps" in arguments else {}
    one = make_run(folder, model, name="one", config=FULL | split, arguments=given)
    halves = given | {"per_device_train_batch_size": 2}
    two = make_run(folder, model, name="two", config=SHARDED | split, arguments=halves, world_size=2)
    for spec in (one, two):
        assert trainers.run(spec) == 0, log(spec)
    assert len(curve(one)) > 2
    for step, values in curve(one).items():
        assert curve(two)[step] == pytest.approx(values, rel=1e-4), f"step {step}"
    _same(_weights(_folder(one, one.artifact_key)), _weights(_folder(two, two.artifact_key)), 1e-3)
    for checkpoint in records(two, "checkpoint"):
        if Storage(two.storage_url).list_tree(checkpoint["key"]) is not None:
            _weights(_folder(two, checkpoint["key"]))


def _batch(size: int) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "logging_steps": 1,
    }


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """As plain transformers loads them, nothing missing and nothing left over."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert type(model).__name__ == "LlamaForCausalLM" == model.config.architectures[0]
    return dict(model.state_dict())


def _same(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(got[name], weight, rtol=tolerance, atol=tolerance / 10)


def _folder(spec: RunSpec, key: str) -> Path:
    path = Storage(spec.storage_url).local_path(key)
    assert path is not None
    return path
