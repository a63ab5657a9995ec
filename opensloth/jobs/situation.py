"""What the policy sees: the queue, the devices, what runs and what people have used, read from the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from opensloth.accounts.usage import Spent, month_start, usage_now
from opensloth.database import now_of
from opensloth.devices.rows import DeviceLeaseRow, DeviceRow, HostRow
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.jobs.states import State
from opensloth.scheduling.fairness import device_part
from opensloth.scheduling.types import Device, QueuedJob, Rules, Running, Usage
from opensloth.settings import Settings

HALF_LIFE_S = 7 * 24 * 3600.0
"""What somebody used counts half after this long."""
RESTART_S = 60.0
"""What a job that was stopped does again: imports, loading the model."""

BELOW_ALL = -1
"""Rank of what any queued job may stop."""

Leases = dict[str, list[str]]
"""The devices that each job holds."""


@dataclass(frozen=True)
class Situation:
    """The arguments of `plan` at one moment, and what checks that they still hold."""

    now: float
    """By the database's clock."""
    queue: list[QueuedJob]
    devices: list[Device]
    running: list[Running]
    usage: Usage
    rules: Rules
    leases: Leases
    noun: str = "device"
    """What the box's devices are called."""


def read_situation(session: Session, settings: Settings, *, with_queue: bool = True) -> Situation:
    """The box as it is now; times are seconds by the database's clock."""
    now = now_of(session)
    # Who lets jobs be stopped after seconds does not want others to wait for minutes.
    rules = Rules(min_run_s=settings.min_run_s, worth_preempting_s=min(180.0, 0.3 * settings.min_run_s))
    queue = _queue(session) if with_queue else []
    devices, noun = _devices(session, now - settings.host_timeout_s)
    leases = read_leases(session)
    running = _running(session, leases, now, rules.min_run_s, settings.chat_turn_s)
    spent = spent_since(running, devices, now, month_start(now))
    users, teams = usage_now(session, now, HALF_LIFE_S, spent)
    return Situation(now, queue, devices, running, Usage(users, teams), rules, leases, noun)


def still_holds(session: Session, seen: Situation, settings: Settings) -> bool:
    """Whether devices can be given as they could be then: nobody else took or gave back one, none went out of service.

    That a job is still queued is checked where it is placed; all else makes a plan a moment older, not wrong.
    """
    if read_leases(session) != seen.leases:
        return False
    devices, _ = _devices(session, now_of(session) - settings.host_timeout_s)
    return _usable(devices) == _usable(seen.devices)


def read_leases(session: Session) -> Leases:
    """Every job that holds devices, with their ids in order."""
    held: Leases = {}
    order = (DeviceLeaseRow.job_id, DeviceLeaseRow.device_id)
    for job_id, device_id in session.execute(select(*order).order_by(*order)):
        held.setdefault(job_id, []).append(device_id)
    return held


def _queue(session: Session) -> list[QueuedJob]:
    query = select(
        JobRow.id,
        JobRow.owner,
        JobRow.priority,
        JobRow.queued_at,
        JobRow.device_count,
        JobRow.not_before,
        JobRow.team,
        JobRow.memory_bytes,
        JobRow.exclusive,
        JobRow.expected_s,
        JobRow.time_limit_s - JobRow.run_s,
        JobRow.own_rank,
        JobRow.run_s,
        JobRow.kind,
    ).where(JobRow.state == State.QUEUED.value)
    # The connection itself gives rows of columns in half the session's time, which counts with ten thousand jobs.
    rows = session.connection().execute(query).all()
    etas = _etas_of_stopped(session)
    return [
        QueuedJob(
            id,
            owner,
            rank,
            queued_at or 0.0,
            devices,
            not_before,
            team,
            memory,
            exclusive,
            _left(expected_s, run_s, etas.get(id)),
            limit_s,
            own_rank,
            kind == "chat",
        )
        for (
            id,
            owner,
            rank,
            queued_at,
            devices,
            not_before,
            team,
            memory,
            exclusive,
            expected_s,
            limit_s,
            own_rank,
            run_s,
            kind,
        ) in rows
    ]


def _etas_of_stopped(session: Session) -> dict[str, float]:
    """What queued jobs that have run before said was left, in seconds."""
    rows = session.execute(
        select(JobRow.id, JobRow.progress).where(JobRow.state == State.QUEUED.value, JobRow.run_s > 0)
    )
    return {job_id: eta for job_id, progress in rows if (eta := _eta(progress)) is not None}


def _left(expected_s: float | None, run_s: float, eta_s: float | None) -> float | None:
    """What a job still needs: if it has run before by its own word, else what is left of the estimate."""
    if not run_s:
        return expected_s
    if eta_s is not None:
        return eta_s + RESTART_S
    return None if expected_s is None else max(expected_s - run_s, 0.1 * expected_s)


def _devices(session: Session, alive_since: float) -> tuple[list[Device], str]:
    rows = session.execute(
        select(
            DeviceRow.id,
            DeviceRow.host_id,
            DeviceRow.index,
            DeviceRow.memory_bytes,
            DeviceRow.foreign_bytes,
            DeviceRow.draining,
            DeviceRow.quarantined,
            DeviceRow.kind,
        )
        .join(HostRow, HostRow.id == DeviceRow.host_id)
        .where(HostRow.seen_at >= alive_since, HostRow.draining.is_(False))
        .order_by(DeviceRow.id)
    ).all()
    kinds = {row[7] for row in rows}
    noun = {frozenset({"cuda"}): "GPU", frozenset({"cpu"}): "CPU slot"}.get(frozenset(kinds), "device")
    return [Device(*row[:5], usable=not row[5] and row[6] is None) for row in rows], noun


def _usable(devices: list[Device]) -> list[str]:
    return [device.id for device in devices if device.usable]


def _running(session: Session, leases: Leases, now: float, min_run_s: float, turn_s: float) -> list[Running]:
    rows = session.execute(
        select(
            JobRow.id,
            JobRow.owner,
            JobRow.team,
            JobRow.priority,
            JobRow.state,
            JobRow.progress,
            JobRow.expected_s,
            JobRow.time_limit_s - JobRow.run_s,
            JobRow.run_s,
            JobRow.kind,
            AttemptRow.placed_at,
            AttemptRow.memory_bytes,
            AttemptRow.peak_bytes,
            AttemptRow.promised_end,
            AttemptRow.first_step_at,
        )
        .join(AttemptRow, and_(AttemptRow.job_id == JobRow.id, AttemptRow.attempt == JobRow.attempt))
        .where(JobRow.id.in_(leases))
    )
    return [
        Running(
            row.id,
            tuple(leases[row.id]),
            row.owner,
            row.team,
            # A chat engine gives way to any job, and at once: it loses nothing.
            BELOW_ALL if row.kind == "chat" else row.priority,
            row.placed_at,
            None if row.memory_bytes is None else max(row.memory_bytes, row.peak_bytes or 0),
            None if row.kind == "chat" else _end(row.progress, row.placed_at, row.expected_s, row.run_s, limit_s, now),
            _preemptible_from(row.kind, row.placed_at, min_run_s),
            row.promised_end,
            row.state == State.STOPPING,
            # A turn begins with the first answer that an engine can give.
            (row.first_step_at or now) + turn_s if row.kind == "chat" else None,
        )
        for row in rows
        for limit_s in (row[7],)
    ]


def _preemptible_from(kind: str, placed_at: float, min_run_s: float) -> float:
    """A command saves nothing that it could go on from; a chat engine has nothing to save."""
    return {"command": float("inf"), "chat": placed_at}.get(kind, placed_at + min_run_s)


def spent_since(running: list[Running], devices: list[Device], now: float, since: float) -> list[Spent]:
    """What live attempts have used of the devices since that moment, in device-seconds."""
    largest = max((device.memory for device in devices), default=0)
    return [
        (
            job.owner,
            job.team,
            (now - max(job.started_at, since)) * len(job.device_ids) * device_part(job.memory, False, largest),
        )
        for job in running
    ]


def _end(
    progress: dict[str, Any] | None,
    placed_at: float,
    expected_s: float | None,
    run_s: float,
    limit_s: float | None,
    now: float,
) -> float | None:
    """When a job that runs is expected to end: by its own word, else by the estimate, and by its limit at the latest.

    What an earlier attempt said of itself is no word of this one.
    """
    eta_s, said_at = _eta(progress), (progress or {}).get("at")
    if eta_s is not None and (said_at or now) >= placed_at:
        end: float | None = (said_at or now) + eta_s
    else:
        left = _left(expected_s, run_s, eta_s)
        end = None if left is None else placed_at + left
    known = [moment for moment in (end, None if limit_s is None else placed_at + limit_s) if moment is not None]
    return min(known, default=None)


def _eta(progress: dict[str, Any] | None) -> float | None:
    eta_s = (progress or {}).get("eta_s")
    return float(eta_s) if isinstance(eta_s, int | float) else None
