"""What processes on this host hold, and what the host has left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

FLOOR_BYTES = 256 << 20
"""With less than this left (2 % on a small host) the host is out of memory."""
_CGROUP = Path("/sys/fs/cgroup")


class ProcessTable:
    """Every process that this one can see, at one moment."""

    def __init__(self) -> None:
        self._children: dict[int, list[int]] = {}
        self.pids: set[int] = set()
        for process in psutil.process_iter(["ppid"]):
            self.pids.add(process.pid)
            self._children.setdefault(process.info["ppid"] or 0, []).append(process.pid)

    def trees(self, roots: Sequence[int]) -> list[set[int]]:
        """For each root its process and all that descend from it; strays of the roots' group are the first one's."""
        found = [self._tree(root) for root in roots]
        if found:
            known = set().union(*found)
            found[0] |= {pid for pid in self.pids - known if _group_of(pid) == roots[0]}
        return found

    def _tree(self, root: int) -> set[int]:
        if root not in self.pids:
            return set()
        tree, open_ones = {root}, [root]
        while open_ones:
            for child in self._children.get(open_ones.pop(), []):
                if child not in tree:
                    tree.add(child)
                    open_ones.append(child)
        return tree


def resident_bytes(pids: Iterable[int]) -> int:
    """RSS of the processes that are still there, in bytes; pages that they share count for each."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += int(psutil.Process(pid).memory_info().rss)
    return total


def memory_left() -> tuple[int, int]:
    """Bytes that may still be taken, and the floor below which there is too little; by the host and by the cgroup."""
    memory = psutil.virtual_memory()
    left, total = int(memory.available), int(memory.total)
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or "max"
        limit = int((_CGROUP / "memory.max").read_text())
        held = int((_CGROUP / "memory.current").read_text())
        cache = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        left, total = min(left, limit - held + int(cache["inactive_file"])), min(total, limit)
    return left, min(FLOOR_BYTES, total // 50)


def oom_kills() -> int:
    """How many processes the kernel has ended for lack of memory since the host started; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("oom_kill ")).split()[1])
    return 0


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
