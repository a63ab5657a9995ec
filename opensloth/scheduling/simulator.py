"""Replays a trace against policies and reports how each did, FIFO beside ours."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opensloth.scheduling import traces
from opensloth.scheduling.fifo import fifo
from opensloth.scheduling.forecast import expected_starts
from opensloth.scheduling.planner import DEFAULT, plan
from opensloth.scheduling.replay import Physics, Policy, Replay, Task
from opensloth.scheduling.types import Device, Rules

POLICIES: Mapping[str, Policy] = {"fifo": fifo, "opensloth": plan}


@dataclass(frozen=True, slots=True)
class Report:
    """How a policy did on a trace; times in seconds."""

    policy: str
    jobs: int
    never_started: int
    """Jobs that the box cannot hold."""
    wait_mean: float
    wait_p50: float
    wait_p95: float
    wait_max: float
    stretch_mean: float
    """Turnaround over the run time alone; sharing and preemption count."""
    utilisation: float
    """Part of the device-seconds up to the makespan on which something ran."""
    makespan: float
    """From the first submission to the last end."""
    fairness: float
    """Jain's index over users of how fast their work went: run time alone over turnaround, of all their jobs."""
    preemptions: int
    said_right: float | None = None
    """Part of the jobs that started within max(2 minutes, 20%) of what was said at submission."""
    said_right_of_waiting: float | None = None
    """The same of the jobs that did not start at once."""
    start_error_p50: float | None = None
    """Of those, the median distance between the start said at submission and the start."""


def simulate_file(
    path: Path,
    *,
    policies: Sequence[str] = ("fifo", "opensloth"),
    hosts: int = 1,
    devices: int = 8,
    memory_gib: float = 80.0,
    expectations: bool = True,
) -> list[Report]:
    """Replays the trace at `path`; raises ValueError on a bad line and KeyError on an unknown policy."""
    jobs, equipment = traces.read(path), traces.box(hosts, devices, memory_gib)
    return [simulate(jobs, equipment, name, expectations=expectations and name == "opensloth") for name in policies]


def simulate(
    jobs: Sequence[traces.TraceJob],
    devices: Sequence[Device],
    policy: str = "opensloth",
    *,
    rules: Rules = DEFAULT,
    physics: Physics | None = None,
    expectations: bool = False,
) -> Report:
    """Replays `jobs` on `devices`; `expectations` also asks at each submission when the job will start."""
    tasks = [Task(job.queued(), _run_s(job), job.load, job.eta) for job in jobs]
    replay = Replay(POLICIES[policy], devices, tasks, rules=rules, physics=physics)
    said: dict[str, float | None] = {}
    asked: set[str] = set()
    while replay.step():
        if expectations:
            new = [job_id for job_id in replay.queue if job_id not in asked]
            asked.update(new)
            if new:
                said |= _ask(replay, new)
    return _report(policy, tasks, replay, len(devices), said if expectations else None)


def _run_s(job: traces.TraceJob) -> float:
    return job.run_s if job.time_limit_s is None else min(job.run_s, job.time_limit_s)


def _ask(replay: Replay, job_ids: Sequence[str]) -> dict[str, float | None]:
    queue = [task.job for task in replay.queue.values()]
    expected = expected_starts(
        queue, replay.devices, replay.running(), replay.accounts(), replay.now, replay.rules, ahead=len(queue)
    )
    return {job_id: expected[job_id].start for job_id in job_ids}


def _report(
    policy: str, tasks: Sequence[Task], replay: Replay, devices: int, said: Mapping[str, float | None] | None
) -> Report:
    done = [task for task in tasks if task.ended]
    if not done:
        raise ValueError("no job of the trace could start on this box")
    waits = sorted(task.wait_s for task in done)
    first, last = min(task.arrived_at for task in tasks), max(task.stops[-1] for task in done)
    alone: dict[str, float] = defaultdict(float)
    turnaround: dict[str, float] = defaultdict(float)
    for task in done:
        alone[task.job.owner] += task.alone_s
        turnaround[task.job.owner] += task.stops[-1] - task.arrived_at
    waited = [task for task in done if said is not None and task.job.id in said]
    errors = sorted(_error(task, said or {}) for task in waited)
    return Report(
        policy,
        jobs=len(tasks),
        never_started=len(tasks) - len(done),
        wait_mean=sum(waits) / len(waits),
        wait_p50=_quantile(waits, 0.5),
        wait_p95=_quantile(waits, 0.95),
        wait_max=waits[-1],
        stretch_mean=sum((task.stops[-1] - task.arrived_at) / task.alone_s for task in done) / len(done),
        utilisation=replay.busy_device_s / (devices * max(last - first, 1e-9)),
        makespan=last - first,
        fairness=jain([alone[user] / turnaround[user] for user in sorted(alone)]),
        preemptions=sum(len(task.stops) - 1 for task in done),
        said_right=None if said is None else sum(_right(task, said) for task in done) / len(done),
        said_right_of_waiting=sum(_right(task, said or {}) for task in waited) / len(waited) if waited else None,
        start_error_p50=_quantile(errors, 0.5) if errors else None,
    )


def _error(task: Task, said: Mapping[str, float | None]) -> float:
    """Seconds between what was said and what happened; a job that started at once was told so."""
    expected = said.get(task.job.id, task.arrived_at)
    return math.inf if expected is None else abs(task.starts[0] - expected)


def _right(task: Task, said: Mapping[str, float | None]) -> bool:
    expected = said.get(task.job.id, task.arrived_at)
    if expected is None:
        return False
    return abs(task.starts[0] - expected) <= max(120.0, 0.2 * (expected - task.arrived_at))


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index (Jain, Chiu, Hawe 1984): 1 if all have the same, 1/n if one has all."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def _quantile(ordered: Sequence[float], part: float) -> float:
    """Of sorted values, the nearest rank."""
    return ordered[min(len(ordered) - 1, max(0, math.ceil(part * len(ordered)) - 1))]
