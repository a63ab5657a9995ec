"""When queued jobs are expected to start: the queue played forward with the running jobs' own estimates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from opensloth.scheduling.fairness import expected_end
from opensloth.scheduling.planner import DEFAULT, NOBODY, plan
from opensloth.scheduling.replay import Active, Physics, Replay, Task
from opensloth.scheduling.types import Device, QueuedJob, Rules, Running, Usage, Wait


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a queued job is told."""

    position: int
    """Its place in the queue; the first is 1."""
    start: float | None
    """None if it is too far behind to say, or waits for what no running job's end brings."""
    freed_by: str | None
    """The job whose end lets it start, if it is one."""
    wait: Wait
    """Why it does not start now."""


def expected_starts(
    queue: Sequence[QueuedJob],
    devices: Sequence[Device],
    running: Sequence[Running],
    usage: Usage = NOBODY,
    now: float = 0.0,
    rules: Rules = DEFAULT,
    *,
    ahead: int = 100,
    asked: Collection[str] = (),
    rounds: int | None = None,
) -> dict[str, Expectation]:
    """For each queued job when it starts and what it waits for, if nobody submits anything more.

    Only the first `ahead` jobs in order are played, as the rest depends on what is not known yet; until the jobs
    `asked` for (all, if none are) have started, or for at most that many `rounds` of planning.
    """
    first = plan(queue, devices, running, usage, now, rules)
    near = set(first.order[:ahead])
    replay = Replay(plan, devices, (), rules=rules, physics=Physics(restart_s=0.0), usage=usage, now=now)
    tasks = {job.id: Task(job, _seconds(job, rules)) for job in queue if job.id in near}
    replay.queue = dict(tasks)
    replay.active = {job.job_id: _active(job, now, rules) for job in running}
    replay.plan()
    open_tasks = [task for job_id, task in tasks.items() if not asked or job_id in asked]
    while rounds != 0 and any(not task.starts for task in open_tasks) and replay.step():
        rounds = None if rounds is None else rounds - 1
    return {
        job_id: _expectation(position, tasks.get(job_id), first.waits.get(job_id), now)
        for position, job_id in enumerate(first.order, start=1)
    }


def _expectation(position: int, task: Task | None, wait: Wait | None, now: float) -> Expectation:
    wait = wait or Wait("starting", 0, at=now)
    if task is None or not task.starts:
        return Expectation(position, None, None, wait)
    return Expectation(position, task.starts[0], task.freed_by, wait)


def _seconds(job: QueuedJob, rules: Rules) -> float:
    return max(1.0, min(job.longest_s, rules.unknown_s if job.expected_s is None else job.expected_s))


def _active(job: Running, now: float, rules: Rules) -> Active:
    count = len(job.device_ids)
    queued = QueuedJob(job.job_id, job.owner, job.priority, job.started_at, count, team=job.team, memory=job.memory)
    left = max(1.0, expected_end(job, now, rules) - now)
    active = Active(Task(queued, left), job.device_ids, job.started_at, job.promised_end)
    active.gone_at = now + rules.stop_s if job.stopping else None
    return active
