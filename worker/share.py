"""An attempt's part of its devices: who exceeds it ends alone, who suffers from another is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from opensloth.devices.inventory import FoundDevice
from opensloth.jobs.attempts import Placed
from opensloth.jobs.endings import End
from opensloth.jobs.spec import load_job_spec
from opensloth.training.memory import CONTEXT_BYTES
from worker.device_watch import DeviceWatch, Holding
from worker.host_memory import oom_kills

GPU_SLACK_BYTES = 256 << 20
"""What a process on a GPU may hold beyond its share: its allocator is capped, what libraries load is not foreseen."""
_OVER_IN_A_ROW = 2
"""Samples beyond the share that end a job; one may fall between an allocation and a release."""
_CROWDED_S = 30.0
"""How long after a neighbour went beyond its share a lack of memory is put down to that."""

_LOOK_S = 2.0
"""How long the end of an attempt waits for a sample of its neighbours."""

_KERNEL_CHOSE_IT = End("failed", "crowded_out", "the kernel ended it because the host's memory ran out")


class Share:
    """What one attempt may use, what it was seen to use, and what follows."""

    def __init__(self, watch: DeviceWatch, placed: Placed, devices: Sequence[FoundDevice]) -> None:
        self._watch = watch
        self._placed = placed
        self._devices = {device.id: device for device in devices}
        self.is_cuda = devices[0].kind == "cuda"
        self.asked = _asked_memory(placed)
        """The owner said how much memory it needs; else its share is an estimate."""
        self.bytes = placed.memory_bytes
        self._oom_kills = oom_kills()
        self._holding = watch.hold(placed.job.id, [device.id for device in devices], self._limit())

    def _limit(self) -> int | None:
        if self.bytes is None or (not self.is_cuda and not self.asked):
            return None  # an estimate is no reason to end a job where memory can be swapped and shared
        return self.bytes + (GPU_SLACK_BYTES if self.is_cuda else 0)

    @property
    def holding(self) -> Holding:
        """What the watch sees of it."""
        return self._holding

    def started(self, pids: Sequence[int]) -> None:
        """The ranks run."""
        self._holding.roots = tuple(pids)

    def verdict(self) -> End | None:
        """Why the attempt has to end now, if it has to."""
        holding = self._holding
        if holding.failure is not None:
            return End("failed", "device_lost", f"a device of it went out of service: {holding.failure}")
        if holding.out_of_memory:
            return self._took_the_hosts_memory()
        if holding.over >= _OVER_IN_A_ROW:
            return self._exceeded()
        return None

    def _took_the_hosts_memory(self) -> End:
        held = _gib(self._holding.resident_bytes)
        return End(
            "failed",
            "cpu_oom",
            f"the host's memory ran out, and this job held the most of it ({held})",
            hint="lower per_device_train_batch_size or max_seq_length, or run fewer jobs at once on this host",
        )

    def _exceeded(self) -> End:
        device_id, most = max(self._holding.held.items(), key=lambda entry: entry[1], default=("", 0))
        name = self._devices[device_id].name if device_id in self._devices else "its device"
        message = f"it used {_gib(most)} on {name}, more than its share of {_gib(self.bytes or 0)}"
        if not self.asked:
            return End("failed", "estimate_low", message)
        hint = f"ask for more in resources.memory (it used {_gib(most)}), or lower per_device_train_batch_size"
        return End("failed", "cuda_oom" if self.is_cuda else "cpu_oom", message, hint)

    def judged(self, end: End, failure: Mapping[str, Any] | None, reported_bytes: int | None) -> End:
        """`end` with its cause told apart: too low an estimate, or a neighbour's fault, is not the job's own.

        `failure` is the trainer's own record, `reported_bytes` the peak that it measured itself. Also notes the end of
        the attempt for its devices' health.
        """
        end = replace(end, peak_bytes=self._peak(reported_bytes))
        if end.kind == "failed" and end.code == "cuda_oom":
            if failure is not None and failure.get("capped") and not self.asked:
                end = replace(end, code="estimate_low", hint=None)
            elif self._was_crowded():
                end = replace(end, code="crowded_out", hint=None)
        elif end.kind == "failed" and end.code == "trainer_killed" and oom_kills() > self._oom_kills:
            # Memory ran out between two samples, and the kernel was faster.
            took = self._took_the_hosts_memory() if self._watch.is_largest(self._holding) else _KERNEL_CHOSE_IT
            end = replace(end, code=took.code, message=took.message, hint=took.hint)
        if end.kind in ("succeeded", "failed"):
            code = end.code if end.kind == "failed" else None
            end = replace(end, charged=self._watch.ended(self._holding, code, self._failed_on(failure)))
        return end

    def _failed_on(self, failure: Mapping[str, Any] | None) -> Sequence[str]:
        """The device of the rank that failed, if it said so; else all."""
        rank = (failure or {}).get("local_rank")
        ids = self._holding.device_ids
        return [ids[rank]] if isinstance(rank, int) and 0 <= rank < len(ids) else ids

    def _peak(self, reported: int | None) -> int | None:
        seen = self._holding.peak_bytes
        if seen is None and reported is not None and self.is_cuda:
            return reported + CONTEXT_BYTES
        return max(filter(None, (seen, reported)), default=None)

    def _was_crowded(self) -> bool:
        """Another job on its devices was beyond its share just now, and this one was not."""
        if self.is_cuda and self._watch.neighbours(self._holding):
            self._watch.look_again(_LOOK_S)  # it may have happened between two samples
        since = time.monotonic() - _CROWDED_S
        over = [other for other in self._watch.neighbours(self._holding) if (other.over_at or 0.0) > since]
        return bool(over) and (self._holding.over_at or 0.0) < since

    def settle(self, wait: Callable[[], bool]) -> None:
        """Hold the devices until their memory is free; one that does not free it goes out of service.

        `wait` pauses a moment and says whether to go on. Raises Unavailable while that cannot be written.
        """
        for device_id in self._watch.held_back(self._holding, wait):
            self._watch.fail(device_id, f"its memory was not free after {self._holding.job_id} had ended")
        self._watch.write_failures()

    def let_go(self) -> None:
        """The devices are given back."""
        self._watch.let_go(self._holding)


def _asked_memory(placed: Placed) -> bool:
    if placed.job.kind == "training":
        return load_job_spec(placed.job.spec).resources.memory is not None
    return False


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
