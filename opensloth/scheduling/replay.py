"""A box in simulated time: jobs arrive, a policy plans, they run, share, are stopped and end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from opensloth.scheduling.fairness import decayed, device_part
from opensloth.scheduling.types import Account, Device, Plan, QueuedJob, Rules, Running, Usage

INFINITY = float("inf")
INSTANT = 1e-3


class Policy(Protocol):
    """What `plan` is; see there."""

    def __call__(
        self,
        queue: Sequence[QueuedJob],
        devices: Sequence[Device],
        running: Sequence[Running],
        usage: Usage,
        now: float,
        rules: Rules,
    ) -> Plan:
        """One round."""


@dataclass(slots=True, eq=False)
class Task:
    """A job and how long it really takes, which the policy does not see."""

    job: QueuedJob
    run_s: float
    """Seconds alone on its devices."""
    load: float = 0.0
    """The part of a device that it keeps busy; jobs whose parts exceed 1 together slow each other down."""
    eta: float = 1.0
    """Its own estimate while it runs, over the truth."""
    left_s: float = field(default=-1.0)
    arrived_at: float = field(default=0.0)
    starts: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    """Ends of attempts; the last is the end of the job."""
    ended: bool = False
    alone_s: float = field(init=False)
    """`run_s` as it was at first: a preemption adds to `run_s`."""
    freed_by: str | None = None
    """The job whose end let it start, if it was one."""

    def __post_init__(self) -> None:
        self.arrived_at = self.job.queued_at
        self.alone_s = self.run_s
        if self.left_s < 0:
            self.left_s = self.run_s

    @property
    def wait_s(self) -> float:
        """Seconds in the queue, those after a preemption included."""
        return sum(start - end for start, end in zip(self.starts, [self.arrived_at, *self.stops], strict=False))


@dataclass(slots=True, eq=False)
class Active:
    """A task on its devices."""

    task: Task
    device_ids: tuple[str, ...]
    started_at: float
    promised_end: float | None = None
    gone_at: float | None = None
    """When it has saved and left, if it was asked to stop."""
    speed: float = 1.0

    @property
    def ends_in(self) -> float:
        """Seconds until it is done, if nothing changes."""
        return self.task.left_s / self.speed


@dataclass(frozen=True, slots=True)
class Physics:
    """How the box behaves; seconds."""

    save_s: float = 30.0
    restart_s: float = 60.0
    """Work that a resumed job does again: imports, loading the model."""
    sharing_cost: float = 0.035
    """Speed that each neighbour on a device costs; four small jobs ran at 90% of their speed alone each."""
    half_life_s: float = 7 * 24 * 3600.0


class Replay:
    """The box; `step` goes to the next thing that happens and plans there."""

    def __init__(
        self,
        policy: Policy,
        devices: Sequence[Device],
        arrivals: Iterable[Task],
        *,
        rules: Rules,
        physics: Physics | None = None,
        usage: Usage | None = None,
        now: float = 0.0,
    ) -> None:
        self.policy, self.devices, self.rules = policy, list(devices), rules
        self.physics = physics or Physics()
        self.arrivals = sorted(arrivals, key=lambda task: (-task.arrived_at, task.job.id))
        self.usage = usage or Usage()
        self.used: dict[str, float] = {}
        self.used_by_team: dict[str, float] = {}
        self.now = now
        self.queue: dict[str, Task] = {}
        self.active: dict[str, Active] = {}
        self.busy_device_s = 0.0
        self.largest = max((device.memory for device in devices), default=0)
        self._ended: str | None = None

    def step(self) -> bool:
        """Goes to the next event; False when nothing will ever happen again."""
        at = self._next()
        if at == INFINITY:
            return False
        self._advance(at - self.now)
        self.now = at
        self._take_arrivals()
        self._finish()
        self.plan()
        return True

    def plan(self) -> Plan:
        """One round of the policy, applied."""
        result = self.policy(
            [task.job for task in self.queue.values()],
            self.devices,
            self.running(),
            self.accounts(),
            self.now,
            self.rules,
        )
        for placement in result.placements:
            task = self.queue.pop(placement.job_id)
            task.starts.append(self.now)
            task.freed_by = self._ended
            self.active[placement.job_id] = Active(task, placement.device_ids, self.now, placement.promised_end)
        for victim in result.preemptions:
            self.active[victim.job_id].gone_at = self.now + self.physics.save_s
        self._set_speeds()
        return result

    def running(self) -> list[Running]:
        """What the policy sees of the active tasks: their own estimates."""
        return [
            Running(
                active.task.job.id,
                active.device_ids,
                active.task.job.owner,
                active.task.job.team,
                active.task.job.priority,
                active.started_at,
                None if active.task.job.whole else active.task.job.memory,
                self.now + active.ends_in * active.task.eta,
                active.started_at + self.rules.min_run_s,
                active.promised_end,
                active.gone_at is not None,
            )
            for active in self.active.values()
        ]

    def accounts(self) -> Usage:
        """The usage as given, and what has ended in this replay."""
        if not self.used:
            return self.usage
        users, teams = dict(self.usage.users), dict(self.usage.teams)
        for accounts, used in ((users, self.used), (teams, self.used_by_team)):
            for name, seconds in used.items():
                before = accounts.get(name, Account())
                accounts[name] = replace(before, used_s=before.used_s + seconds)
        return Usage(users, teams)

    def _next(self) -> float:
        times = [self.arrivals[-1].arrived_at] if self.arrivals else []
        for active in self.active.values():
            times.append(self.now + active.ends_in if active.gone_at is None else active.gone_at)
        if self.queue:
            # A round at these moments may stop a job or start one; workers plan every few seconds.
            highest = max(task.job.priority for task in self.queue.values())
            lower = [active for active in self.active.values() if active.task.job.priority < highest]
            moments = [active.started_at + self.rules.min_run_s for active in lower]
            moments += [active.promised_end or 0.0 for active in self.active.values()]
            moments += [task.job.not_before or 0.0 for task in self.queue.values()]
            times += [at for at in moments if at > self.now + INSTANT]
        return max(self.now, min(times, default=INFINITY))

    def _advance(self, seconds: float) -> None:
        busy: set[str] = set()
        for active in self.active.values():
            if active.gone_at is None:
                active.task.left_s = max(0.0, active.task.left_s - seconds * active.speed)
            busy.update(active.device_ids)
        self.busy_device_s += seconds * len(busy)
        for used in (self.used, self.used_by_team):
            for name, amount in used.items():
                used[name] = decayed(amount, 0.0, seconds, self.physics.half_life_s)

    def _take_arrivals(self) -> None:
        self._ended = None
        while self.arrivals and self.arrivals[-1].arrived_at <= self.now:
            task = self.arrivals.pop()
            self.queue[task.job.id] = task

    def _finish(self) -> None:
        for job_id, active in sorted(self.active.items()):
            done = active.task.left_s <= INSTANT
            if done or (active.gone_at is not None and active.gone_at <= self.now):
                del self.active[job_id]
                self._charge(active)
                self._ended = job_id
                active.task.stops.append(self.now)
                active.task.ended = done
                if not done:
                    self._requeue(active.task)

    def _charge(self, active: Active) -> None:
        job = active.task.job
        part = device_part(job.memory, job.exclusive, self.largest)
        cost = (self.now - active.started_at) * len(active.device_ids) * part
        self.used[job.owner] = self.used.get(job.owner, 0.0) + cost
        self.used_by_team[job.team] = self.used_by_team.get(job.team, 0.0) + cost

    def _requeue(self, task: Task) -> None:
        before = task.left_s
        task.left_s += self.physics.restart_s
        expected = task.job.expected_s
        if expected is not None:
            expected = expected * before / task.run_s + self.physics.restart_s
        task.job = replace(task.job, expected_s=expected)
        task.run_s = task.left_s
        self.queue[task.job.id] = task

    def _set_speeds(self) -> None:
        loads: dict[str, list[float]] = {}
        for active in self.active.values():
            for device_id in active.device_ids:
                loads.setdefault(device_id, []).append(active.task.load)
        for active in self.active.values():
            # The ranks of a job wait for the slowest.
            active.speed = min(self._speed(loads[device_id]) for device_id in active.device_ids)

    def _speed(self, loads: list[float]) -> float:
        return (1.0 - self.physics.sharing_cost * (len(loads) - 1)) / max(1.0, sum(loads))
