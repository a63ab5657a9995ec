"""Each kind of exception has the code that the service acts on."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from opensloth.errors import InvalidDataset, InvalidInput
from opensloth.jobs.reasons import REASONS
from opensloth.storage import StorageCorrupt
from opensloth.training.failures import HINTS, describe, first_to_fail


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "phase", "code"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "training", "cuda_oom"),
        (RuntimeError("CUDA error: out of memory, CUDA out of memory"), "loading_model", "cuda_oom"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"), "training", "cpu_oom"),
        (MemoryError(), "preparing_data", "cpu_oom"),
        (InvalidDataset("nothing is left"), "preparing_data", "dataset_error"),
        (InvalidInput("no"), "loading_model", "invalid_arguments"),
        (StorageCorrupt("differs"), "preparing_data", "checkpoint_error"),
        (FileNotFoundError("no model"), "loading_model", "model_not_found"),
        (ValueError("Unrecognized model"), "loading_model", "model_error"),
        (OSError(errno.ENOSPC, "No space left on device"), "training", "storage_error"),
        (RuntimeError("what"), "training", "internal_error"),
    ],
)
def test_an_exception_becomes_a_code_with_a_hint(error: Exception, phase: str, code: str) -> None:
    failure = describe(error, phase)
    assert failure.code == code
    assert failure.message
    assert failure.hint


def test_every_code_is_a_reason_of_the_service() -> None:
    assert HINTS.keys() <= REASONS.keys()


def test_an_error_s_own_hint_comes_first() -> None:
    assert describe(InvalidDataset("x", hint="do this"), "training").hint == "do this"


def test_a_message_is_one_line_and_the_detail_the_end_of_the_traceback() -> None:
    try:
        raise RuntimeError("first\nsecond")
    except RuntimeError as error:
        failure = describe(error, "training")
    assert failure.message == "first"
    assert failure.detail.endswith("second")


def test_only_the_first_rank_to_fail_says_so(tmp_path: Path) -> None:
    assert [first_to_fail(tmp_path) for _ in range(3)] == [True, False, False]
