"""What happened to each job of a trace, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from opensloth.scheduling.replay import Replay, Task
from opensloth.scheduling.simulator import POLICIES
from opensloth.scheduling.traces import TraceJob
from opensloth.scheduling.types import Device, Rules, Usage


def timeline(
    jobs: Sequence[TraceJob],
    devices: Sequence[Device],
    policy: str = "opensloth",
    *,
    rules: Rules | None = None,
    usage: Usage | None = None,
) -> str:
    """One line for each attempt: job, start and end in minutes from the beginning of the trace, device indices."""
    tasks = [Task(job.queued(), job.run_s, job.load, job.eta) for job in jobs]
    replay = Replay(POLICIES[policy], devices, tasks, rules=rules or Rules(), usage=usage)
    index_of = {device.id: device.index for device in devices}
    places: dict[tuple[str, float], str] = {}
    while replay.step():
        for active in replay.active.values():
            on = sorted(index_of[device_id] for device_id in active.device_ids)
            places[active.task.job.id, active.started_at] = ",".join(map(str, on))
    lines = [f"{'job':10} {'start':>6} {'end':>6}  devices"]
    for task in tasks:
        for start, end in zip(task.starts, task.stops, strict=True):
            how = "" if end == task.stops[-1] else "  preempted"
            lines.append(f"{task.job.id:10} {start / 60:6.1f} {end / 60:6.1f}  {places[task.job.id, start]}{how}")
    return "\n".join(lines)
