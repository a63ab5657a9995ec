"""A driver made of files: pynvml's functions over `gpus.json` and `claims/` in the folder NVIDIA_FAKE_NVML.

`gpus.json` is `{"absent": false, "hang": false, "gpus": [{"uuid", "total", "extra", "foreign": {pid: bytes}, "lost",
"error", "ecc", "xids"}]}`. A process claims memory by `claim()`; it is held while the process lives, and `extra` is
used memory that no process is listed for.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

VARIABLE = "NVIDIA_FAKE_NVML"

NVML_ERROR_UNINITIALIZED, NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NOT_FOUND = 1, 3, 6
NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_TIMEOUT, NVML_ERROR_GPU_IS_LOST = 9, 10, 15
NVML_ERROR_RESET_REQUIRED, NVML_ERROR_UNKNOWN = 16, 999
NVML_TEMPERATURE_GPU, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 0, 1, 0
nvmlEventTypeXidCriticalError = 8  # noqa: N816
nvmlMemory_v2 = 2  # noqa: N816
RESERVED = 600 << 20


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__({15: "GPU is lost", 6: "Not Found", 999: "Unknown Error"}.get(value, f"error {value}"))
        self.value = value


def folder() -> Path:
    return Path(os.environ[VARIABLE])


def write(**state: Any) -> None:
    """What the driver says from now on."""
    (folder() / "claims").mkdir(parents=True, exist_ok=True)
    aside = folder() / f"gpus.{os.getpid()}.new"
    aside.write_text(json.dumps({"absent": False, "hang": False, "gpus": [], **state}))
    aside.rename(folder() / "gpus.json")


def gpu(uuid: str, total: int = 80 << 30, **more: Any) -> dict[str, Any]:
    return {"uuid": uuid, "total": total, "extra": 0, "foreign": {}, "lost": False, "ecc": 0, "xids": [], **more}


def claim(uuid: str, size: int) -> None:
    """This process holds `size` bytes on a GPU until it ends."""
    aside = folder() / "claims" / f".{os.getpid()}"
    aside.write_text(json.dumps({"uuid": uuid, "bytes": size}))
    aside.rename(folder() / "claims" / str(os.getpid()))


def used(uuid: str) -> int:
    """Bytes that are used on a GPU."""
    return int(nvmlDeviceGetMemoryInfo(nvmlDeviceGetHandleByUUID(uuid)).used)


def _state() -> dict[str, Any]:
    while (state := json.loads((folder() / "gpus.json").read_text()))["hang"]:
        time.sleep(0.02)
    return dict(state)


def _checked(handle: dict[str, Any]) -> dict[str, Any]:
    if handle["lost"]:
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    if handle.get("error"):
        raise NVMLError(handle["error"])
    return handle


def nvmlInit() -> None:  # noqa: N802
    if VARIABLE not in os.environ or _state()["absent"]:
        raise NVMLError(NVML_ERROR_DRIVER_NOT_LOADED)


def nvmlShutdown() -> None:  # noqa: N802
    pass


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(_state()["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:  # noqa: N802
    return {**_checked(_state()["gpus"][index]), "index": index}


def nvmlDeviceGetHandleByUUID(uuid: str) -> dict[str, Any]:  # noqa: N802
    for found in _state()["gpus"]:
        if found["uuid"] == uuid:
            return _checked(found)
    raise NVMLError(NVML_ERROR_NOT_FOUND)


def nvmlDeviceGetUUID(handle: dict[str, Any]) -> str:  # noqa: N802
    return str(handle["uuid"])


def nvmlDeviceGetName(handle: dict[str, Any]) -> str:  # noqa: N802
    return "Fake GPU"


def nvmlDeviceGetCudaComputeCapability(handle: dict[str, Any]) -> tuple[int, int]:  # noqa: N802
    return (9, 0)


def nvmlDeviceGetMemoryInfo(handle: dict[str, Any], version: int | None = None) -> SimpleNamespace:  # noqa: N802
    used = handle["extra"] + sum(process.usedGpuMemory for process in nvmlDeviceGetComputeRunningProcesses(handle))
    return SimpleNamespace(total=handle["total"] + RESERVED, reserved=RESERVED, used=used)


def nvmlDeviceGetComputeRunningProcesses(handle: dict[str, Any]) -> list[SimpleNamespace]:  # noqa: N802
    found = [SimpleNamespace(pid=int(pid), usedGpuMemory=size) for pid, size in handle["foreign"].items()]
    for path in (folder() / "claims").iterdir():
        if path.name.startswith("."):
            continue
        held = json.loads(path.read_text())
        if held["uuid"] == handle["uuid"] and _lives(int(path.name)):
            found.append(SimpleNamespace(pid=int(path.name), usedGpuMemory=held["bytes"]))
    return found


def nvmlDeviceGetGraphicsRunningProcesses(handle: dict[str, Any]) -> list[SimpleNamespace]:  # noqa: N802
    return []


def nvmlDeviceGetUtilizationRates(handle: dict[str, Any]) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(gpu=42, memory=7)


def nvmlDeviceGetTemperature(handle: dict[str, Any], sensor: int) -> int:  # noqa: N802
    return 55


def nvmlDeviceGetTotalEccErrors(handle: dict[str, Any], kind: int, counter: int) -> int:  # noqa: N802
    if handle["ecc"] is None:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return int(handle["ecc"])


def nvmlEventSetCreate() -> list[tuple[str, int]]:  # noqa: N802
    return []


def nvmlDeviceRegisterEvents(handle: dict[str, Any], types: int, events: list[Any]) -> None:  # noqa: N802
    pass


def nvmlEventSetWait_v2(events: list[tuple[str, int]], timeout_ms: int) -> SimpleNamespace:  # noqa: N802
    for found in _state()["gpus"]:
        for number in found["xids"]:
            if (found["uuid"], number) not in events:  # each is told once
                events.append((found["uuid"], number))
                return SimpleNamespace(eventType=nvmlEventTypeXidCriticalError, device=found, eventData=number)
    raise NVMLError(NVML_ERROR_TIMEOUT)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
