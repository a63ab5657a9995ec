"""A trainer that is killed resumes as if nothing had happened, for each method and every kind of adapter."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from opensloth.storage import Storage
from opensloth.training.run_spec import RunSpec
from tests.support.training import Signal, TrainerHost, curve, dpo_rows, log, make_run, next_attempt, records

DROPOUT = {"lora_args": {"r": 4, "lora_dropout": 0.1}}


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, trainers: TrainerHost, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that an SFT job made."""
    spec = make_run(tmp_path_factory.mktemp("adapter"), tiny_model, config=DROPOUT)
    assert trainers.run(spec) == 0, log(spec)
    return _folder(spec, spec.artifact_key)


@pytest.mark.parametrize("case", ["sft", "dpo", "dpo from an adapter", "kto from an adapter", "orpo"])
def test_killed_and_resumed_it_ends_with_the_same_model(
    case: str, tiny_model: Path, adapter: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"arguments": {"save_steps": 4, "save_total_limit": 2}, "config": DROPOUT}
    options["training_type"] = case.split()[0]
    if case.endswith("from an adapter"):
        options["adapter"] = str(adapter)
    whole = make_run(tmp_path, tiny_model, name="whole", **options)
    killed = make_run(tmp_path, tiny_model, name="killed", **options)
    assert trainers.run(whole) == 0, log(whole)
    assert trainers.run(killed, Signal(SIGKILL, step=6)) == -SIGKILL, log(killed)

    resumed = next_attempt(killed, step=4)
    assert trainers.run(resumed) == 0, log(resumed)

    steps = records(whole, "started")[0]["max_steps"]
    assert records(resumed, "started")[0] == {"step": 5, "max_steps": steps, "resumed_step": 4}
    expected, got = curve(whole), curve(killed, resumed)
    assert got.keys() == expected.keys()
    for step, values in expected.items():
        assert got[step] == pytest.approx(values, rel=1e-6), f"step {step}"
    assert records(resumed, "metrics")[-1]["tokens"] == records(whole, "metrics")[-1]["tokens"]
    _same_weights(_folder(whole, whole.artifact_key), _folder(resumed, resumed.artifact_key))


def test_dpo_from_an_adapter_is_measured_against_that_adapter(
    tiny_model: Path, adapter: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    spec = make_run(tmp_path, tiny_model, "dpo", adapter=str(adapter), arguments={"save_steps": 4}, config=DROPOUT)
    assert trainers.run(spec) == 0, log(spec)
    assert curve(spec)[1][0] == pytest.approx(0.6931, abs=1e-4)  # ln 2: policy and reference start equal
    newest = Storage(spec.storage_url).list_keys(spec.checkpoint_key)[-1]
    checkpoint = _folder(spec, f"{spec.checkpoint_key}/{newest}")
    _same_weights(checkpoint / "ref", adapter)
    assert not (_folder(spec, spec.artifact_key) / "ref").exists()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    killed = make_run(tmp_path, tiny_model, "dpo", name="killed", arguments={"save_steps": 2}, rows=dpo_rows(16))
    assert trainers.run(killed, Signal(SIGKILL, step=5)) == -SIGKILL, log(killed)
    damaged = _folder(killed, f"{killed.checkpoint_key}/step-00000004") / "optimizer.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)

    resumed = next_attempt(killed, step=4)
    assert trainers.run(resumed) == 0, log(resumed)
    assert records(resumed, "started")[0]["resumed_step"] == 2
    assert any("step-00000004 is passed over" in record["message"] for record in records(resumed))


def test_a_run_killed_after_its_last_checkpoint_only_writes_its_result(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    arguments = {"save_steps": 2, "max_steps": 4}
    killed = make_run(tmp_path, tiny_model, "dpo", name="killed", arguments=arguments)
    assert trainers.run(killed, Signal(SIGKILL, phase="saving")) == -SIGKILL, log(killed)
    resumed = next_attempt(killed, step=4)
    assert trainers.run(resumed) == 0, log(resumed)
    assert not records(resumed, "started")
    newest = _folder(killed, f"{killed.checkpoint_key}/step-00000004")
    _same_weights(newest, _folder(resumed, resumed.artifact_key))


def _folder(spec: RunSpec, key: str) -> Path:
    path = Storage(spec.storage_url).local_path(key)
    assert path is not None
    return path


def _same_weights(first: Path, second: Path) -> None:
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-6, atol=1e-7)
