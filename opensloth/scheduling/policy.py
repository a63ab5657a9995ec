"""`plan`: the order of the queue and what of it starts now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from opensloth.scheduling.types import Device, Placement, QueuedJob, Running


def order(queue: Iterable[QueuedJob]) -> list[QueuedJob]:
    """The queue in the order in which it is served: class, then age, then id."""
    return sorted(queue, key=lambda job: (-job.priority, job.queued_at, job.id))


def plan(
    queue: Sequence[QueuedJob], devices: Sequence[Device], running: Sequence[Running], now: float
) -> list[Placement]:
    """Placements for now, in queue order; each job gets all its devices on one host, or none.

    A job that does not fit keeps the most suitable host for itself: what is free there is not given to jobs behind it,
    so that a job of several devices is not passed for ever by small ones.
    """
    taken = {device_id for job in running for device_id in job.device_ids}
    all_of: dict[str, list[Device]] = defaultdict(list)
    free: dict[str, list[Device]] = defaultdict(list)
    for device in sorted(devices, key=lambda device: (device.host_id, device.index)):
        all_of[device.host_id].append(device)
        if device.id not in taken:
            free[device.host_id].append(device)
    placements = []
    for job in order(queue):
        if job.not_before is not None and job.not_before > now:
            continue
        host_id = _tightest(free, job.devices)
        if host_id is not None:
            chosen, free[host_id] = free[host_id][: job.devices], free[host_id][job.devices :]
            placements.append(Placement(job.id, host_id, tuple(device.id for device in chosen)))
        else:
            _reserve(free, all_of, job.devices)
    return placements


def _tightest(free: dict[str, list[Device]], count: int) -> str | None:
    """The host with the fewest free devices that still has `count`: large holes stay for large jobs."""
    fitting = [(len(devices), host_id) for host_id, devices in free.items() if len(devices) >= count]
    return min(fitting)[1] if fitting else None


def _reserve(free: dict[str, list[Device]], all_of: dict[str, list[Device]], count: int) -> None:
    """Hold the host that is nearest to having `count` free devices."""
    able = [(-len(free[host_id]), host_id) for host_id, devices in all_of.items() if len(devices) >= count]
    if able:
        free[min(able)[1]] = []
