"""What must be true of a box once all its jobs are over; each thing that is not is one line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise

from sqlalchemy import func, select

from opensloth.devices.rows import DeviceLeaseRow, DeviceRow
from opensloth.events.records import EventView
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.jobs.states import TERMINAL, TRANSITIONS
from tests.chaos.box import Box
from tests.support.jobs import ADMIN

ALLOWED = {(source.value, target.value) for source, target in TRANSITIONS}


@dataclass
class Findings:
    """Lines by kind; empty is good."""

    lost: list[str] = field(default_factory=list)
    """Jobs that were acknowledged and are not there, not over, or over for a reason that nobody gave."""
    given_up: list[str] = field(default_factory=list)
    """Jobs that ended as `worker_killed` because chance killed their worker three times in a row."""
    made_twice: list[str] = field(default_factory=list)
    double_runs: list[str] = field(default_factory=list)
    leaked_devices: list[str] = field(default_factory=list)
    leaked_processes: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    """Repeated, missing or impossible ones."""

    def add(self, other: Findings) -> None:
        for name, lines in vars(other).items():
            getattr(self, name).extend(lines)


def audit(box: Box, submitted: dict[str, int], cancelled: Collection[str]) -> Findings:
    """`submitted` are the acknowledged jobs with their number of steps, `cancelled` those that somebody cancelled."""
    found = Findings()
    with box.services.database.read() as session:
        rows = {row.id: row for row in session.scalars(select(JobRow))}
        leases = session.execute(select(DeviceLeaseRow.device_id, DeviceLeaseRow.job_id)).all()
        broken = session.execute(select(DeviceRow.id).where(DeviceRow.quarantined.is_not(None))).all()
        open_attempts = session.scalar(select(func.count()).where(AttemptRow.ended_at.is_(None))) or 0
    found.made_twice += [f"{job_id}: nobody was told of it" for job_id in rows.keys() - submitted.keys()]
    for job_id, steps in submitted.items():
        row = rows.get(job_id)
        _judge(found, job_id, row, job_id in cancelled)
        if row is not None:
            _judge_events(found, box, row, steps)
    found.leaked_devices += [f"{device} by {job}" for device, job in leases] + [
        f"{device} quarantined" for (device,) in broken
    ]
    found.leaked_devices += [f"{open_attempts} attempts never ended"] if open_attempts else []
    found.leaked_processes += [f"{process.pid}: {process.info['cmdline']}" for process in box.trainers()]
    found.double_runs += _double_runs(box)
    return found


def _judge(found: Findings, job_id: str, row: JobRow | None, was_cancelled: bool) -> None:
    if row is None:
        found.lost.append(f"{job_id}: gone")
    elif row.state not in {state.value for state in TERMINAL}:
        found.lost.append(f"{job_id}: still {row.state}")
    elif row.state == "failed" and row.reason == "worker_killed":
        found.given_up.append(f"{job_id}: attempt {row.attempt}")
    elif row.state == "failed" or (row.state == "cancelled" and not was_cancelled):
        found.lost.append(f"{job_id}: {row.state} for {row.reason}: {row.error}")


def _judge_events(found: Findings, box: Box, row: JobRow, steps: int) -> None:
    events = box.services.events.list(row.id, limit=100_000)
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        found.events.append(f"{row.id}: the numbers have gaps")
    moves = [(event.data["from"], event.data["to"]) for event in events if event.type == "state"]
    follows = all(before[1] == after[0] for before, after in pairwise(moves))
    if not follows or moves[-1][1] != row.state or not set(moves[1:]) <= ALLOWED:
        found.events.append(f"{row.id}: the moves do not follow each other: {moves}")
    starts = sum(move[1] == "starting" for move in moves)
    if starts != row.attempt:
        found.events.append(f"{row.id}: {starts} starts, {row.attempt} attempts")
    found.events += [f"{row.id}: {line}" for line in _told_twice(events)]
    if row.state == "succeeded":
        series = box.services.jobs.metrics(row.id, ADMIN, ["loss"])
        points = [point["step"] for point in series[0]["points"]] if series else []
        if points != list(range(1, steps + 1)):
            found.events.append(f"{row.id}: {len(points)} of {steps} steps in its metrics")


def _told_twice(events: list[EventView]) -> list[str]:
    """Steps of one attempt that came more than once, or out of order."""
    told: dict[int, list[int]] = defaultdict(list)
    for event in events:
        if event.type == "metrics" and "loss" in event.data.get("metrics", {}):
            told[event.attempt].append(event.data["step"])
    return [
        f"attempt {attempt} told of {steps}"
        for attempt, steps in told.items()
        if steps != list(range(steps[0], steps[0] + len(steps)))
    ]


def _double_runs(box: Box) -> list[str]:
    """Attempts that lived while a later one of the same job did, by what they noted themselves."""
    found = []
    for path in sorted((box.settings.home / "alive").glob("*")):
        spans: dict[int, list[float]] = {}
        for line in path.read_text().splitlines():
            attempt, moment = line.split()
            span = spans.setdefault(int(attempt), [float(moment)] * 2)
            span[1] = float(moment)
        ordered = [spans[attempt] for attempt in sorted(spans)]
        found += [
            f"{path.name}: {before[1] - after[0]:.3f} s" for before, after in pairwise(ordered) if before[1] > after[0]
        ]
    return found
