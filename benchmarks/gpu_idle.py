"""When the first GPU of this machine has nothing to do, by its driver."""

from __future__ import annotations

import threading
import time
from typing import Any

EVERY_S = 0.05


def gpu_name() -> str | None:
    """The card, None without one."""
    nvml = _nvml()
    return None if nvml is None else str(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0)))


def device_mib(pid: int) -> int | None:
    """What the process holds on the first GPU; 0 if the driver does not list it, None without a GPU."""
    nvml = _nvml()
    if nvml is None:
        return None
    listed = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(0))
    return sum((one.usedGpuMemory or 0) >> 20 for one in listed if one.pid == pid)


class GpuWatch:
    """Samples the utilisation in a thread; without a GPU it sees nothing."""

    def __init__(self) -> None:
        self._nvml = _nvml()
        self._samples: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> GpuWatch:
        if self._nvml is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def longest_idle(self, begin: float, end: float) -> float | None:
        """Seconds of the longest stretch without work between two moments; None without a GPU."""
        longest, since = 0.0, None
        inside = [(at, used) for at, used in self._samples if begin <= at <= end]
        for at, used in inside:
            since = (since or at) if used == 0 else None
            longest = max(longest, at - since) if since is not None else longest
        return round(longest, 2) if inside else None

    def _look(self) -> None:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(0)
        while not self._over.wait(EVERY_S):
            self._samples.append((time.time(), self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu))


def _nvml() -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, or no library for it
        return None
    return pynvml
