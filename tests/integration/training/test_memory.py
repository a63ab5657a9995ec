"""Estimates against what trainers on a CPU were measured to use: resident memory, peaks of whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opensloth.devices.estimate import estimate
from opensloth.devices.model_shape import ModelShape, read_shape
from opensloth.jobs.requirements import requirement
from opensloth.jobs.row_lengths import RowLengths
from opensloth.resolve import resolve
from opensloth.training.run_spec import RunSpec
from tests.support.training import CPU, TrainerHost, make_run, records

WORDS = "the quick brown fox jumps over the lazy dog and then it sleeps "


def long_rows(method: str, count: int = 8) -> list[dict[str, Any]]:
    """Rows that are longer than any run here lets through, so that each is as long as it may be."""

    def said(role: str, times: int) -> list[dict[str, str]]:
        return [{"role": role, "content": WORDS * times}]

    if method == "dpo":
        return [{"prompt": said("user", 1), "chosen": said("assistant", 80), "rejected": said("assistant", 70)}] * count
    return [{"messages": [*said("user", 1), *said("assistant", 80)]}] * count


def shape_of(model: Path) -> ModelShape:
    with (model / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors = {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
    shape = read_shape(json.loads((model / "config.json").read_text()), tensors)
    assert shape is not None
    return shape


def run_of(
    folder: Path, model: Path, method: str, rows: int, tokens: int, *, full: bool, checkpointing: bool
) -> RunSpec:
    config: dict[str, Any] = {
        "filter_overlength_samples": False,
        "fast_model_args": {
            "max_seq_length": tokens,
            "full_finetuning": full,
            "use_gradient_checkpointing": checkpointing,
        },
    }
    if method == "dpo":
        config["dpo_args"] = {"max_length": tokens}
    arguments = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 1, "max_steps": 2}
    return make_run(folder, model, method, rows=long_rows(method), config=config, arguments=arguments)


def estimated(spec: RunSpec, model: Path) -> int:
    resolved = resolve(spec.opensloth_config, spec.training_args, CPU)
    shape = shape_of(model)
    rows = RowLengths(10**6, 10**5)
    need = requirement(resolved, rows, devices=1, from_adapter=False, vocabulary=shape.vocab)
    return estimate(shape, need.most).total


def measured(spec: RunSpec) -> int:
    return max(int(record["metrics"].get("memory_peak_bytes", 0)) for record in records(spec, "metrics"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("method", "rows", "tokens", "full", "checkpointing"),
    [
        ("sft", 1, 128, False, False),
        ("sft", 2, 512, False, False),
        ("sft", 2, 512, False, True),
        ("sft", 1, 256, True, False),
        ("dpo", 1, 256, False, False),
    ],
)
def test_the_estimate_is_near_the_measured_memory_of_a_real_model(
    method: str,
    rows: int,
    tokens: int,
    full: bool,
    checkpointing: bool,
    smollm2: Path,
    trainers: TrainerHost,
    tmp_path: Path,
) -> None:
    spec = run_of(tmp_path, smollm2, method, rows, tokens, full=full, checkpointing=checkpointing)
    assert trainers.run(spec, timeout_s=600) == 0
    assert 0.9 <= estimated(spec, smollm2) / measured(spec) <= 1.4


def test_the_estimate_of_a_tiny_model_is_near_what_libraries_alone_take(
    tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    spec = run_of(tmp_path, tiny_model, "sft", 2, 128, full=False, checkpointing=False)
    assert trainers.run(spec) == 0
    assert 0.9 <= estimated(spec, tiny_model) / measured(spec) <= 1.6
