"""Keeps a rank to its share of a GPU, and tells its own lack of memory from its neighbours'. Imports no torch at first.

The allocator's limit binds what PyTorch allocates, not the CUDA context nor what libraries take beside it: those are
measured, or assumed where the driver does not say, and taken off the share first.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Literal

from opensloth.errors import FieldError, InvalidInput
from opensloth.training.failures import HINTS, Failure

CONTEXT_BYTES = 512 << 20
"""A CUDA context with the kernels of a training loaded, where the driver does not say what this process holds."""
LIBRARY_BYTES = 256 << 20
"""What libraries take later: kernels that are loaded when first used, handles, streams."""
NCCL_BYTES = 512 << 20
"""Buffers of a job with several ranks."""
_CROWDED_BYTES = 256 << 20
"""With less than this free a GPU is full."""
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


_allowed: int | None = None
"""What PyTorch may reserve on this rank's device, once `apply_cap` has limited it."""


def apply_cap(memory_bytes: int | None, device: str, world_size: int = 1) -> int | None:
    """Limit the allocator so that this process stays within `memory_bytes`; returns the bytes that it may reserve.

    None and CPUs are not limited. Raises InvalidInput where the share is too small for a CUDA context alone.
    """
    if memory_bytes is None or device != "cuda":
        return None
    global _allowed
    import torch

    index = torch.cuda.current_device()
    torch.empty(1, device=f"cuda:{index}")  # makes the context
    torch.cuda.synchronize(index)
    outside = _outside_bytes(index)
    spare = LIBRARY_BYTES + (NCCL_BYTES if world_size > 1 else 0)
    allowed = memory_bytes - outside - spare
    if allowed <= 0:
        least = -(-(outside + spare) // (1 << 20))
        message = f"must be more than {least} MiB, which CUDA and its libraries take for themselves"
        raise InvalidInput(f"resources.memory {message}", fields=[FieldError("resources.memory", message)])
    total = torch.cuda.get_device_properties(index).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), index)
    _allowed = allowed
    return allowed


def _outside_bytes(index: int) -> int:
    """What this process holds on the device beside PyTorch's allocator."""
    import torch

    uuids = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    try:
        from opensloth.devices.nvml import Nvml

        nvml = Nvml()
    except ImportError:
        return CONTEXT_BYTES
    try:
        held = nvml.process_bytes(uuids[index], os.getpid()) if index < len(uuids) else None
    finally:
        nvml.close()
    return CONTEXT_BYTES if held is None else max(0, held - int(torch.cuda.memory_reserved(index)))


def explained(failure: Failure, error: BaseException) -> tuple[Failure, bool]:
    """`failure`, or that others took the memory, for a run out of GPU memory; and whether the own cap was reached."""
    if failure.code != "cuda_oom" or _allowed is None:
        return failure, False
    import torch

    reserved = int(torch.cuda.memory_reserved())
    free = int(torch.cuda.mem_get_info()[0])
    cause = oom_cause(_allowed, reserved, free, requested_bytes(str(error)))
    if cause == "neighbours":
        text = f"the GPU was full while this job was within its share: {failure.message}"
        return replace(failure, code="crowded_out", message=text[:500], hint=HINTS["crowded_out"]), False
    return failure, cause == "cap"


def oom_cause(allowed: int, reserved: int, free: int, requested: int) -> Literal["cap", "neighbours", "other"]:
    """Why an allocation of `requested` bytes failed, with `reserved` of `allowed` taken and `free` left on the GPU."""
    if reserved + requested > allowed:
        return "cap"
    return "neighbours" if free < max(requested, _CROWDED_BYTES) else "other"


def requested_bytes(message: str) -> int:
    """The size in PyTorch's message; 0 where it names none."""
    found = re.search(r"Tried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)", message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0
