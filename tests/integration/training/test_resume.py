"""A trainer that is killed resumes as if nothing had happened, for each method and every kind of adapter."""

from __future__ import annotations

import os
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from opensloth.storage import Storage
from opensloth.training.run_spec import RunSpec
from tests.support.faults import fill, small_disk
from tests.support.training import Signal, TrainerHost, curve, dpo_rows, log, make_run, next_attempt, records

DROPOUT = {"lora_args": {"r": 4, "lora_dropout": 0.1}}


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, trainers: TrainerHost, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that an SFT job made."""
    spec = make_run(tmp_path_factory.mktemp("adapter"), tiny_model, config=DROPOUT)
    assert trainers.run(spec) == 0, log(spec)
    return _folder(spec, spec.artifact_key)


@pytest.mark.parametrize(
    "case",
    [
        "sft",
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in ("kto from an adapter", "dpo", "dpo from an adapter", "orpo")
        ),
    ],
)
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
    began = records(resumed, "started")[0]
    assert (began["step"], began["max_steps"], began["resumed_step"]) == (5, steps, 4)
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


def test_checkpoints_damaged_in_any_way_are_passed_over_for_the_newest_whole_one(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    arguments = {"save_steps": 2, "save_total_limit": 10, "max_steps": 12}
    killed = make_run(tmp_path, tiny_model, "dpo", name="killed", arguments=arguments, rows=dpo_rows(16))
    assert trainers.run(killed, Signal(SIGKILL, step=11)) == -SIGKILL, log(killed)

    def file(step: int, name: str) -> Path:
        return _folder(killed, f"{killed.checkpoint_key}/step-{step:08d}") / name

    flipped = bytearray(file(10, "optimizer.pt").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    file(10, "optimizer.pt").write_bytes(flipped)
    weights = file(8, "adapter_model.safetensors")
    os.truncate(weights, weights.stat().st_size // 2)
    file(6, "trainer_state.json").unlink()
    os.truncate(file(4, "MANIFEST.json"), 40)

    resumed = next_attempt(killed, step=10)
    assert trainers.run(resumed) == 0, log(resumed)
    assert records(resumed, "started")[0]["resumed_step"] == 2
    told = " ".join(record["message"] for record in records(resumed) if "is passed over" in record["message"])
    assert all(f"step-{step:08d} is passed over" in told for step in (10, 8, 6, 4))


@pytest.mark.parametrize("moment", ["writing", pytest.param("storing", marks=pytest.mark.slow)])
def test_a_run_killed_in_the_middle_of_a_checkpoint_goes_on_from_the_one_before(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path, moment: str
) -> None:
    arguments = {"save_steps": 2, "max_steps": 6}
    killed = make_run(tmp_path, tiny_model, "dpo", name="killed", arguments=arguments)
    assert trainers.run(killed, Signal(SIGKILL, **{moment: 4})) == -SIGKILL, log(killed)
    storage = Storage(killed.storage_url)
    assert [saved["step"] for saved in records(killed, "checkpoint")] == [2]
    assert storage.list_tree(f"{killed.checkpoint_key}/step-00000004") is None
    storage.verify_tree(f"{killed.checkpoint_key}/step-00000002")

    resumed = next_attempt(killed, step=2)
    assert trainers.run(resumed) == 0, log(resumed)
    assert records(resumed, "started")[0]["resumed_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("full", ["storage", "scratch"])
def test_a_disk_that_is_full_when_a_checkpoint_is_saved_fails_the_run_and_leaves_the_older_one(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path, full: str
) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        arguments = {"save_steps": 2, "max_steps": 6}
        spec = make_run(tmp_path if full == "storage" else disk, tiny_model, "dpo", arguments=arguments)
        spec = spec.model_copy(update={"storage_url": str((disk if full == "storage" else tmp_path) / "store")})
        (Path(spec.run_dir) / "run.json").write_text(spec.model_dump_json())
        assert trainers.run(spec, Signal(SIGKILL, step=3)) == -SIGKILL, log(spec)
        key = f"{spec.checkpoint_key}/step-00000002"
        size = Storage(spec.storage_url).usage(key).bytes
        resumed = next_attempt(spec, step=2)
        filler = fill(disk, leave=size + size // 2 if full == "scratch" else size // 2)
        assert trainers.run(resumed) == 20, log(resumed)
        (failure,) = records(resumed, "failure")
        assert failure["code"] == "storage_error", failure
        Storage(spec.storage_url).verify_tree(key)
        filler.unlink()
        again = next_attempt(resumed.model_copy(update={"checkpoint_key": spec.checkpoint_key}), step=2)
        assert trainers.run(again) == 0, log(again)


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
