"""A run that cannot go on says why, by a code that the service knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.training import TrainerHost, log, make_run, records

FAILED = 20
LONG = [{"prompt": "Say it", "completion": "x" * 500}]


@pytest.mark.parametrize(
    ("code", "in_message", "options"),
    [
        ("dataset_error", "max_seq_length = 128 tokens", {"rows": LONG}),
        ("dataset_error", "row 2: `text` is missing", {"rows": [{"text": "fine"}, {"title": "no text"}]}),
        ("invalid_arguments", "no_such_argument", {"arguments": {"no_such_argument": 1}}),
        ("invalid_arguments", "no_such_layer", {"config": {"lora_args": {"target_modules": ["no_such_layer"]}}}),
        ("model_not_found", "", {"model": "/no/such/model"}),
    ],
)
def test_a_failed_run_has_a_code_and_a_message(
    code: str, in_message: str, options: dict[str, Any], tiny_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    model = Path(options.pop("model", tiny_model))
    spec = make_run(tmp_path, model, **options)
    assert trainers.run(spec) == FAILED, log(spec)
    (failure,) = records(spec, "failure")
    assert failure["code"] == code, failure
    assert in_message in failure["message"]
    assert failure["hint"]
    assert 'File "' in failure["detail"]
    assert failure["detail"].rstrip().splitlines()[-1]
    assert not records(spec, "result")


def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_change(
    broken_model: Path, trainers: TrainerHost, tmp_path: Path
) -> None:
    spec = make_run(tmp_path, broken_model, arguments={"save_steps": 1})
    assert trainers.run(spec) == FAILED, log(spec)
    (failure,) = records(spec, "failure")
    assert failure["code"] == "nan_loss"
    assert "the loss is not finite at step 1" in failure["message"]
    assert not records(spec, "checkpoint")


def test_a_model_in_pickles_is_refused(tiny_model: Path, trainers: TrainerHost, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model = tmp_path / "pickled"
    model.mkdir()
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (model / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(tiny_model / "model.safetensors"), model / "pytorch_model.bin")
    spec = make_run(tmp_path, model)
    assert trainers.run(spec) == FAILED, log(spec)
    assert records(spec, "failure")[0]["code"] == "model_error"
