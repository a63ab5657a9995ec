"""A run out of GPU memory is told apart: the own cap, the neighbours, or neither."""

from __future__ import annotations

import pytest

from opensloth.training import memory
from opensloth.training.failures import describe
from opensloth.training.memory import apply_cap, explained, oom_cause, requested_bytes

GIB = 1 << 30
TEXT = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 12.00 MiB is free"
)


class OutOfMemoryError(RuntimeError):
    """Named as PyTorch's."""


def test_the_size_that_was_asked_for_is_in_the_message():
    assert requested_bytes(TEXT) == 5 * GIB // 2
    assert requested_bytes("Tried to allocate 512 bytes.") == 512
    assert requested_bytes("CUBLAS_STATUS_ALLOC_FAILED") == 0


@pytest.mark.parametrize(
    ("reserved", "free", "requested", "cause"),
    [
        (9 * GIB, 60 * GIB, 2 * GIB, "cap"),
        (9 * GIB, 0, 2 * GIB, "cap"),
        (4 * GIB, GIB, 2 * GIB, "neighbours"),
        (4 * GIB, 0, 0, "neighbours"),
        (4 * GIB, 30 * GIB, 0, "other"),
    ],
)
def test_who_took_the_memory(reserved: int, free: int, requested: int, cause: str):
    assert oom_cause(10 * GIB, reserved, free, requested) == cause


def test_without_a_cap_a_lack_of_memory_is_the_jobs_own():
    failure = describe(OutOfMemoryError(TEXT), "training")
    assert explained(failure, OutOfMemoryError(TEXT)) == (failure, False)
    assert failure.code == "cuda_oom"


def test_with_a_cap_the_allocator_says_whose_fault_it_is(monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setattr(memory, "_allowed", 10 * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 20, 80 * GIB))
    error = OutOfMemoryError(TEXT)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 4 * GIB)
    failure, capped = explained(describe(error, "training"), error)
    assert (failure.code, capped) == ("crowded_out", False)
    assert "within its share" in failure.message
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 9 * GIB)
    failure, capped = explained(describe(error, "training"), error)
    assert (failure.code, capped) == ("cuda_oom", True)


def test_a_cpu_and_a_whole_device_have_no_cap():
    assert apply_cap(GIB, "cpu") is None
    assert apply_cap(None, "cuda") is None


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: unspecified launch failure",
        "CUDA-capable device(s) is/are busy or unavailable",
    ],
)
def test_what_the_gpu_did_wrong_is_a_device_error(text: str):
    assert describe(RuntimeError(text), "training").code == "device_error"
    assert describe(RuntimeError("CUDA error: device-side assert triggered"), "training").code == "internal_error"
