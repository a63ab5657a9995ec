"""What this host has: CUDA GPUs through NVML, or CPU slots where there are none."""

from __future__ import annotations

import importlib.util
import os
import platform
import threading
from dataclasses import dataclass
from typing import Any

from opensloth.devices.nvml import Gpu, Nvml
from opensloth.errors import FieldError, InvalidInput, Unavailable


@dataclass(frozen=True)
class FoundDevice:
    """A device of this host; `memory_bytes` is its own memory (a GPU's) or the host's (a CPU slot's)."""

    id: str
    kind: str
    index: int
    name: str
    memory_bytes: int
    bf16: bool = False


def discover(setting: str, host_id: str, nvml: Nvml, timeout_s: float = 30.0) -> list[FoundDevice]:
    """The devices that `OPENSLOTH_DEVICES` names: `auto`, `cpu:N`, or CUDA indices or UUIDs with commas.

    Raises InvalidInput for a setting that names none, and Unavailable where the driver hangs.
    """
    setting = setting.strip()
    if setting.startswith("cpu"):
        return _cpu_slots(setting, host_id)
    gpus = _gpus(nvml, timeout_s)
    if setting == "auto":
        return gpus or _cpu_slots("cpu:1", host_id)
    wanted = [part.strip() for part in setting.split(",") if part.strip()]
    chosen = [gpu for gpu in gpus if str(gpu.index) in wanted or gpu.id in wanted]
    lost = [part for part in wanted if part.isdecimal() and int(part) in nvml.unreadable]
    if not chosen or len(chosen) + len(lost) != len(wanted):
        have = ", ".join(f"{gpu.index} ({gpu.id})" for gpu in gpus) or "no CUDA GPU"
        raise _wrong(f"{setting!r} does not name GPUs of this host, which has {have}")
    return chosen


def facts(devices: list[FoundDevice]) -> dict[str, Any]:
    """What the devices can do, as `opensloth.resolve.DeviceFacts` stores it."""
    cuda = devices[0].kind == "cuda"
    return {
        "kind": devices[0].kind,
        "bf16": all(device.bf16 for device in devices),
        "has_unsloth": cuda and importlib.util.find_spec("unsloth") is not None,
        "has_bitsandbytes": cuda and importlib.util.find_spec("bitsandbytes") is not None,
        "count": len(devices),
    }


def _cpu_slots(setting: str, host_id: str) -> list[FoundDevice]:
    _, _, count = setting.partition(":")
    if setting not in ("cpu", f"cpu:{count}") or not (count or "1").isdecimal() or not 1 <= int(count or "1") <= 512:
        raise _wrong(f"{setting!r} is not a number of CPU slots; write cpu:N with N from 1 to 512")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = platform.processor() or platform.machine()
    return [FoundDevice(f"{host_id}:cpu{n}", "cpu", n, f"CPU slot ({name})", memory) for n in range(int(count or "1"))]


def _gpus(nvml: Nvml, timeout_s: float) -> list[FoundDevice]:
    """Raises Unavailable where the driver does not answer: a worker that waited for it would never be ready."""
    found: list[Gpu] = []
    asking = threading.Thread(target=lambda: found.extend(nvml.gpus()), name="nvml", daemon=True)
    asking.start()
    asking.join(timeout_s)
    if asking.is_alive():
        raise Unavailable(
            f"the NVIDIA driver has not answered for {timeout_s:.0f} s",
            code="nvml_silent",
            hint="look at `nvidia-smi` and the kernel's log; the host may need a restart",
        )
    return [FoundDevice(gpu.uuid, "cuda", gpu.index, gpu.name, gpu.memory_bytes, gpu.bf16) for gpu in found]


def _wrong(message: str) -> InvalidInput:
    return InvalidInput(f"OPENSLOTH_DEVICES: {message}", fields=[FieldError("OPENSLOTH_DEVICES", message)])
