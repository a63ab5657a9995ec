"""Whose memory is whose on a device: what one sample of it means, given the jobs that hold it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from opensloth.devices.nvml import GpuProcess, GpuSample

IDLE_BYTES = 512 << 20
"""A GPU that nobody uses shows less than this as used (drivers count some of what they reserve)."""
FREED_BYTES = 1 << 30
"""What may stay unexplained on a GPU after a job without it counting as held."""


@dataclass(frozen=True)
class Process:
    """A process on a device; `job_id` is None if it is not ours, `bytes` None where nobody can tell."""

    pid: int
    bytes: int | None
    job_id: str | None = None
    guessed: bool = False
    """It is one of our jobs', but which one cannot be told."""


@dataclass(frozen=True)
class Reading:
    """A device at one moment. `taken` is when, by this process's monotonic clock."""

    taken: float
    used_bytes: int | None
    foreign_bytes: int = 0
    processes: tuple[Process, ...] = ()
    utilization: int | None = None
    temperature: int | None = None

    def bytes_of(self, job_id: str) -> int | None:
        """What a job holds here; None where nobody can tell."""
        own = [process.bytes for process in self.processes if process.job_id == job_id and not process.guessed]
        return sum(size for size in own if size is not None) if any(own) else None


@dataclass
class Attribution:
    """Tells the processes of one GPU apart, over time.

    The driver may name processes by numbers of another PID namespace (a worker in a container), name none of them, or
    not say what each holds. Then what was there while no job held the GPU is foreign, and what came with a job is the
    job's.
    """

    foreign_pids: set[int] = field(default_factory=set)
    foreign_idle_bytes: int = 0
    """What was used when no job of ours held the GPU."""

    def read(
        self, sample: GpuSample, holders: Mapping[str, Collection[int]], visible: Collection[int], taken: float
    ) -> Reading:
        """`holders` are the pids of the jobs that hold this GPU; `visible` are all pids that this process can see."""
        if not holders:
            self.foreign_pids = {process.pid for process in sample.processes}
            busy = bool(sample.processes) or sample.used_bytes > IDLE_BYTES
            self.foreign_idle_bytes = sample.used_bytes if busy else 0
        processes = tuple(self._whose(process, holders, visible) for process in sample.processes)
        return Reading(
            taken=taken,
            used_bytes=sample.used_bytes,
            foreign_bytes=self._foreign(sample, processes) if holders else self.foreign_idle_bytes,
            processes=processes,
            utilization=sample.utilization,
            temperature=sample.temperature,
        )

    def _whose(self, process: GpuProcess, holders: Mapping[str, Collection[int]], visible: Collection[int]) -> Process:
        size = process.bytes or None
        for job_id, pids in holders.items():
            if process.pid in pids:
                return Process(process.pid, size, job_id)
        if holders and process.pid not in visible and process.pid not in self.foreign_pids:
            return Process(process.pid, size, list(holders)[-1], guessed=len(holders) > 1)
        return Process(process.pid, size)

    def _foreign(self, sample: GpuSample, processes: tuple[Process, ...]) -> int:
        """By what each process holds, if the driver says so of all of them; else what it was before our jobs came."""
        unsaid = any(process.bytes is None for process in processes)
        if unsaid or (not processes and sample.used_bytes > IDLE_BYTES):
            return min(self.foreign_idle_bytes, sample.used_bytes)
        return sum(process.bytes or 0 for process in processes if process.job_id is None)


def is_freed(reading: Reading, job_id: str, pids: Collection[int], alone: bool) -> bool:
    """Whether a GPU has its memory back from a job whose processes, `pids`, are gone.

    `alone`: no other job of ours holds the GPU.
    """
    for process in reading.processes:
        if process.pid in pids or (process.job_id == job_id and not process.guessed):
            return False
    explained = [process.bytes for process in reading.processes]
    if not alone and (None in explained or not explained):
        return True  # what the neighbours hold cannot be told from what was left behind
    held = (reading.used_bytes or 0) - sum(size or 0 for size in explained)
    unlisted = reading.foreign_bytes if not explained or None in explained else 0
    return held <= unlisted + FREED_BYTES
