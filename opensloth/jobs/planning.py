"""One planning round: read the queue and the devices, run the policy, apply its placements, under one lock."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from opensloth.database import Database, after_commit, db_now
from opensloth.devices.rows import DeviceLeaseRow, DeviceRow, HostRow
from opensloth.events.publisher import Publisher
from opensloth.events.store import EventStore
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.jobs.states import State
from opensloth.jobs.transitions import transition
from opensloth.scheduling.policy import plan
from opensloth.scheduling.types import Device, Placement, QueuedJob, Running
from opensloth.settings import Settings


def plan_round(database: Database, events: EventStore, publisher: Publisher, settings: Settings) -> int:
    """Place what fits now; returns how many jobs were placed."""
    with database.read() as session:
        if session.scalar(select(JobRow.id).where(JobRow.state == State.QUEUED.value).limit(1)) is None:
            return 0
    with database.scheduler_lock() as session:
        now = session.scalar(select(db_now())) or 0.0
        placements = plan(_queue(session), _devices(session, now - settings.host_timeout_s), _running(session), now)
        for placement in placements:
            _apply(session, events, publisher, placement, now, settings.lease_s)
    return len(placements)


def _queue(session: Session) -> list[QueuedJob]:
    rows = session.execute(
        select(
            JobRow.id, JobRow.owner, JobRow.priority, JobRow.queued_at, JobRow.device_count, JobRow.not_before
        ).where(JobRow.state == State.QUEUED.value)
    )
    return [QueuedJob(id, owner, rank, at or 0.0, count, later) for id, owner, rank, at, count, later in rows]


def _devices(session: Session, alive_since: float) -> list[Device]:
    rows = session.execute(
        select(DeviceRow.id, DeviceRow.host_id, DeviceRow.index)
        .join(HostRow, HostRow.id == DeviceRow.host_id)
        .where(HostRow.seen_at >= alive_since, HostRow.draining.is_(False))
    )
    return [Device(*row) for row in rows]


def _running(session: Session) -> list[Running]:
    held: dict[str, list[str]] = {}
    for device_id, job_id in session.execute(select(DeviceLeaseRow.device_id, DeviceLeaseRow.job_id)):
        held.setdefault(job_id, []).append(device_id)
    return [Running(job_id, tuple(device_ids)) for job_id, device_ids in held.items()]


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
