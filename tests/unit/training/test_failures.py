"""What goes wrong while a model is loaded has a code that says whether the model or the network is at fault."""

from __future__ import annotations

import pytest

from opensloth.jobs.reasons import reason
from opensloth.training.failures import HINTS, describe


class SafetensorError(Exception):
    """Named as the one of safetensors, which the trainer's imports bring."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError("We couldn't connect to 'https://hub' to load the files"), "hub_unavailable"),
        (OSError("org/none is not a local folder and is not a valid model identifier"), "model_not_found"),
        (FileNotFoundError("there is no model at /x"), "model_not_found"),
        (OSError("no file named model.safetensors"), "model_error"),
        (SafetensorError("Error while deserializing header: invalid header length"), "model_error"),
        (ValueError("Target modules {'x'} not found in the base model"), "invalid_arguments"),
    ],
)
def test_a_model_that_cannot_be_loaded_has_a_code(error: Exception, code: str) -> None:
    failure = describe(error, "loading_model")
    assert (failure.code, failure.message) == (code, str(error))
    assert failure.hint == HINTS[code]
    assert reason(code).retryable is (code == "hub_unavailable")


def test_a_full_disk_is_the_storages_fault_however_a_library_says_it() -> None:
    hidden = RuntimeError("unexpected pos 64 vs 0")
    hidden.__context__ = OSError(28, "No space left on device")
    texts = 'Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }'
    for error in (SafetensorError(texts), RuntimeError("PytorchStreamWriter failed writing file data/3"), hidden):
        assert describe(error, "training").code == "storage_error"
