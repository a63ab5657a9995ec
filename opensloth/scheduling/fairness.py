"""The order of the queue: class, then fair share charged as each job is passed, then age."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from opensloth.scheduling.types import Account, QueuedJob, Rules, Running, Usage

UNKNOWN = Account()
LATE_S = 5.0
"""What a job that has just overrun is given."""


def factor(account: Account, rules: Rules) -> float:
    """`2^(-usage / share / damping)` (Slurm's multifactor priority): 1 for who has used nothing, towards 0 for who has
    used much; for display, as order by it is order by usage over share.
    """
    return float(2.0 ** (-account.used_s / max(account.share, 1e-9) / rules.damping_s))


def decayed(used_s: float, since: float, now: float, half_life_s: float) -> float:
    """Usage booked at `since`, as it counts at `now`."""
    return float(used_s * 2.0 ** (-max(0.0, now - since) / half_life_s))


def device_part(memory: int | None, whole: bool, largest: int) -> float:
    """The part of a device that a job is charged for: what it keeps from others."""
    return 1.0 if whole or not memory or not largest else min(1.0, memory / largest)


def order(
    queue: Iterable[QueuedJob], running: Sequence[Running], usage: Usage, now: float, rules: Rules, largest: int = 0
) -> list[QueuedJob]:
    """The queue in the order in which it is served; `largest` is the memory of the largest device in bytes.

    Each job is placed by what its owner will have used once all jobs before it and itself have run (weighted fair
    queueing, Demers et al. 1989), so a thousand jobs of one person do not come before the first of another, and of
    two people who have used the same the one with the shorter job goes first. A job's own length stops counting as
    it waits. Teams share the box in the same way, people share their team's part (Slurm's fair tree).
    """
    user_used, team_used = _charged(running, now, rules, largest)
    by_owner: dict[tuple[str, str], list[QueuedJob]] = defaultdict(list)
    for job in sorted(sorted(queue, key=attrgetter("id")), key=attrgetter("queued_at")):
        by_owner[job.team, job.owner].append(job)
    neglected = _neglected(by_owner.values(), running, now, rules)
    by_team: dict[str, _Classes] = defaultdict(lambda: defaultdict(list))
    for (team, owner), jobs in by_owner.items():
        account = usage.users.get(owner, UNKNOWN)
        _add_owner(by_team[team], jobs, account, account.used_s + user_used[owner], now, rules, largest)
    for classes in by_team.values():
        for entries in classes.values():
            entries.sort()
    merged = next(iter(by_team.values()), {}) if len(by_team) < 2 else _merge_teams(by_team, usage, team_used)
    ordered = [entry[4] for rank in sorted(merged, reverse=True) for entry in merged[rank]]
    if not neglected:
        return ordered
    ids = {job.id for job in neglected}
    return neglected + [job for job in ordered if job.id not in ids]


_Entry = tuple[float, float, str, float, QueuedJob]
"""Usage over share, queued_at, id, cost in device-seconds, the job."""
_Classes = dict[int, list[_Entry]]


def _add_owner(
    classes: _Classes, jobs: list[QueuedJob], account: Account, used: float, now: float, rules: Rules, largest: int
) -> None:
    """Adds one owner's jobs, oldest first as passed, each keyed by usage over share after it."""
    jobs.sort(key=attrgetter("own_rank"))
    jobs.sort(key=attrgetter("priority"), reverse=True)
    per_share = 1.0 / max(account.share, 1e-9)
    patience, unknown = 1.0 / rules.patience_s, rules.unknown_s
    for rank, same_class in groupby(jobs, key=attrgetter("priority")):
        add = classes[rank].append
        for job in same_class:
            cost, memory, queued_at = job.expected_s, job.memory, job.queued_at
            if cost is None:
                cost = min(unknown, job.longest_s)
            cost *= job.devices
            if memory is not None and memory < largest and not job.exclusive:
                cost *= memory / largest
            unripe = 1.0 - (now - queued_at) * patience
            add(((used + cost * unripe if unripe > 0.0 else used) * per_share, queued_at, job.id, cost, job))
            used += cost


def _merge_teams(by_team: dict[str, _Classes], usage: Usage, charged: dict[str, float]) -> _Classes:
    """One list for each class, keyed by the team's usage over share before each job in place of its owner's."""
    merged: _Classes = defaultdict(list)
    for team, classes in by_team.items():
        account = usage.teams.get(team, UNKNOWN)
        used, per_share = account.used_s + charged[team], 1.0 / max(account.share, 1e-9)
        for rank in sorted(classes, reverse=True):
            for _, queued_at, job_id, cost, job in classes[rank]:
                merged[rank].append((used * per_share, queued_at, job_id, cost, job))
                used += cost
    for entries in merged.values():
        entries.sort()
    return merged


def _charged(
    running: Sequence[Running], now: float, rules: Rules, largest: int
) -> tuple[dict[str, float], dict[str, float]]:
    """What running jobs will have used when they end, by user and by team, in device-seconds."""
    users: dict[str, float] = defaultdict(float)
    teams: dict[str, float] = defaultdict(float)
    for job in running:
        part = device_part(job.memory, False, largest)
        cost = (expected_end(job, now, rules) - job.started_at) * len(job.device_ids) * part
        users[job.owner] += cost
        teams[job.team] += cost
    return users, teams


def expected_end(job: Running, now: float, rules: Rules) -> float:
    """When a running job is expected to end: never in the past; one that has overrun may take as long again.

    At first that is next to nothing: a job is often a moment late, and if that made its end unknown, long ones would
    pass whoever waits for it.
    """
    if job.stopping:
        return now + rules.stop_s
    end = job.expected_end if job.expected_end is not None else job.started_at + rules.unknown_s
    return end if end > now else now + max(LATE_S, now - end)


def _neglected(
    by_owner: Iterable[list[QueuedJob]], running: Sequence[Running], now: float, rules: Rules
) -> list[QueuedJob]:
    """The oldest job of each owner who has waited too long and has nothing running; these go first.

    Classes and usage decide nothing there, so that no stream of others' jobs holds one back for ever; and it is no
    way past the others for who has a thousand jobs queued, as one of those is running.
    """
    served = {job.owner for job in running}
    oldest = [jobs[0] for jobs in by_owner if jobs[0].owner not in served]
    late = [job for job in oldest if job.queued_at < now - rules.neglect_s]
    return sorted(late, key=attrgetter("queued_at", "id"))
