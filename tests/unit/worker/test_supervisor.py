"""Failures outside the trainer end an attempt with a reason that says whether to try again."""

from __future__ import annotations

import pytest

from opensloth.errors import InvalidInput, OpenSlothError, Unavailable
from opensloth.jobs.reasons import reason
from opensloth.storage import StorageCorrupt
from worker.launch import CannotStart
from worker.supervisor import reason_of


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (CannotStart("gone", code="input_deleted"), "input_deleted", False),
        (InvalidInput("lora_args.r does not fit"), "invalid_arguments", False),
        (InvalidInput("no such model", code="model_not_found"), "model_not_found", False),
        (Unavailable("the database is away"), "lease_lost", True),
        (StorageCorrupt("a file is short"), "storage_error", True),
        (OSError(28, "No space left on device"), "storage_error", True),
        (OpenSlothError("odd"), "internal_error", False),
        (KeyError("x"), "internal_error", False),
    ],
)
def test_each_failure_has_its_reason(error: Exception, code: str, retryable: bool) -> None:
    assert reason_of(error) == code
    assert reason(code).retryable is retryable
