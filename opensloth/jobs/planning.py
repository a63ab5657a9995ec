"""One planning round: read the queue and the devices, run the policy, apply its placements, under one lock."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from opensloth.database import Database, after_commit, db_now
from opensloth.devices.rows import DeviceLeaseRow, DeviceRow, HostRow
from opensloth.events.publisher import Publisher
from opensloth.events.store import EventStore
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.jobs.states import State, StopIntent
from opensloth.jobs.transitions import transition
from opensloth.scheduling.planner import plan
from opensloth.scheduling.types import Device, Placement, Preemption, QueuedJob, Rules, Running, Usage
from opensloth.settings import Settings


def plan_round(database: Database, events: EventStore, publisher: Publisher, settings: Settings) -> int:
    """Place what fits now; returns how many jobs were placed."""
    with database.read() as session:
        if session.scalar(select(JobRow.id).where(JobRow.state == State.QUEUED.value).limit(1)) is None:
            return 0
    with database.scheduler_lock() as session:
        now = session.scalar(select(db_now())) or 0.0
        devices = _devices(session, now - settings.host_timeout_s)
        rules = Rules(min_run_s=settings.min_run_s)
        running = _running(session, now, rules.min_run_s)
        round_ = plan(_queue(session), devices, running, Usage(), now, rules)
        for preemption in round_.preemptions:
            _stop(session, events, publisher, preemption)
        for placement in round_.placements:
            _apply(session, events, publisher, placement, now, settings.lease_s)
    return len(round_.placements)


def _queue(session: Session) -> list[QueuedJob]:
    rows = session.execute(
        select(
            JobRow.id,
            JobRow.owner,
            JobRow.priority,
            JobRow.queued_at,
            JobRow.device_count,
            JobRow.not_before,
            JobRow.time_limit_s - JobRow.run_s,
        )
        .where(JobRow.state == State.QUEUED.value)
        .order_by(JobRow.queued_at)
    )
    return [
        QueuedJob(id, owner, rank, at or 0.0, count, later, time_limit_s=limit)
        for id, owner, rank, at, count, later, limit in rows
    ]


def _devices(session: Session, alive_since: float) -> list[Device]:
    rows = session.execute(
        select(DeviceRow.id, DeviceRow.host_id, DeviceRow.index)
        .join(HostRow, HostRow.id == DeviceRow.host_id)
        .where(HostRow.seen_at >= alive_since, HostRow.draining.is_(False))
    )
    return [Device(*row) for row in rows]


def _running(session: Session, now: float, min_run_s: float) -> list[Running]:
    held: dict[str, list[str]] = {}
    for device_id, job_id in session.execute(select(DeviceLeaseRow.device_id, DeviceLeaseRow.job_id)):
        held.setdefault(job_id, []).append(device_id)
    rows = session.execute(
        select(
            JobRow.id,
            JobRow.owner,
            JobRow.priority,
            JobRow.state,
            JobRow.progress,
            JobRow.time_limit_s - JobRow.run_s,
            AttemptRow.placed_at,
        )
        .join(AttemptRow, and_(AttemptRow.job_id == JobRow.id, AttemptRow.attempt == JobRow.attempt))
        .where(JobRow.id.in_(held))
    )
    return [
        Running(
            job_id,
            tuple(sorted(held[job_id])),
            owner,
            priority=rank,
            started_at=placed_at,
            expected_end=_end(progress, placed_at, limit, now),
            preemptible_from=placed_at + min_run_s,
            stopping=state == State.STOPPING,
        )
        for job_id, owner, rank, state, progress, limit, placed_at in rows
    ]


def _end(progress: dict[str, Any] | None, placed_at: float, limit_s: float | None, now: float) -> float | None:
    """The earlier of the job's own estimate and its time limit."""
    eta_s = (progress or {}).get("eta_s")
    known = [end for end in (eta_s and now + eta_s, limit_s and placed_at + limit_s) if end]
    return min(known, default=None)


def _stop(session: Session, events: EventStore, publisher: Publisher, preemption: Preemption) -> None:
    moved = transition(
        session,
        events,
        preemption.job_id,
        State.STOPPING,
        sources=[State.STARTING, State.RUNNING],
        message=f"stopped to a checkpoint for {preemption.in_favour_of}",
        values={"stop_intent": StopIntent.PREEMPT.value},
    )
    row = session.get(JobRow, preemption.job_id)
    if moved and row is not None and row.host_id is not None:
        host = row.host_id
        after_commit(session, lambda: publisher.wake_host(host))


def _apply(
    session: Session, events: EventStore, publisher: Publisher, placement: Placement, now: float, lease_s: float
) -> None:
    row = session.get(JobRow, placement.job_id)
    attempt = (row.attempt if row else 0) + 1
    host = placement.host_id
    moved = transition(
        session,
        events,
        placement.job_id,
        State.STARTING,
        sources=[State.QUEUED],
        message=f"placed on {', '.join(placement.device_ids)}",
        values={
            "attempt": attempt,
            "host_id": host,
            "lease_until": now + lease_s,
            "taken_up": False,
            "not_before": None,
            "phase": None,
        },
    )
    if not moved:
        return
    session.add(
        AttemptRow(
            job_id=placement.job_id, attempt=attempt, host_id=host, device_ids=list(placement.device_ids), placed_at=now
        )
    )
    session.add_all(
        DeviceLeaseRow(device_id=device_id, job_id=placement.job_id, attempt=attempt)
        for device_id in placement.device_ids
    )
    session.flush()
    after_commit(session, lambda: publisher.wake_host(host))
