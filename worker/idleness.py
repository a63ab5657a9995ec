"""Whether a command does anything: prints, computes, or keeps a GPU busy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import psutil

from worker.descendants import descendants

BUSY_PART = 0.01
"""Of one processor; below that a process only looks whether there is something to do."""
_MOST_BETWEEN_S = 10.0


class Idleness:
    """Looks now and then, and says when nothing has happened for `limit_s`."""

    def __init__(self, limit_s: float, devices: Sequence[str]) -> None:
        self._limit_s = limit_s
        self._every_s = min(_MOST_BETWEEN_S, limit_s / 6)
        self._devices = devices
        self._looked = self._busy = time.monotonic()
        self._seen: tuple[int, dict[int, float]] = (0, {})

    def is_over(self, pid: int, written: int) -> bool:
        """Whether what lies beneath `pid`, and has printed `written` bytes so far, has been idle for too long."""
        now = time.monotonic()
        if now - self._looked < self._every_s:
            return False
        times = _times(pid)
        if self._works(written, times, now - self._looked):
            self._busy = now
        self._looked, self._seen = now, (written, times)
        return now - self._busy >= self._limit_s

    def _works(self, written: int, times: dict[int, float], elapsed_s: float) -> bool:
        before, earlier = self._seen
        if written != before or times.keys() != earlier.keys():
            return True
        used_s = sum(times.values()) - sum(earlier.values())
        return used_s > BUSY_PART * elapsed_s or _gpu_works(self._devices)


def _times(pid: int) -> dict[int, float]:
    """Seconds of processor of each process so far."""
    found = {}
    for process in descendants(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent = process.cpu_times()
            found[process.pid] = spent.user + spent.system
    return found


def _gpu_works(devices: Sequence[str]) -> bool:
    if not devices:
        return False
    import pynvml

    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByUUID(device) for device in devices]
        return any(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu > 0 for handle in handles)
    except pynvml.NVMLError:
        return True  # nobody can tell, so it is left alone
    finally:
        pynvml.nvmlShutdown()
