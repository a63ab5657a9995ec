"""The only code that writes a job's state: one guarded step, its event, its leases and its dependents together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.orm import Session

from opensloth.accounts.usage import charge
from opensloth.database import now_of
from opensloth.datasets.rows import DatasetPullRow
from opensloth.devices.rows import DeviceLeaseRow, DeviceRow
from opensloth.events.records import Level, Record
from opensloth.events.store import EventStore
from opensloth.jobs.reasons import reason as reason_of
from opensloth.jobs.rows import AttemptRow, DependencyRow, JobRow, PullWaitRow
from opensloth.jobs.states import ENDS_IN, LIVE, TERMINAL, State, StopIntent, is_allowed
from opensloth.scheduling.fairness import device_part
from opensloth.webhooks.outbox import announce

_LEVEL: dict[State, Level] = {State.FAILED: "error", State.CANCELLED: "warning"}


def locked(session: Session, job_id: str) -> JobRow | None:
    """The job's row, locked until the transaction ends."""
    return session.get(JobRow, job_id, with_for_update=True, populate_existing=True)


def transition(
    session: Session,
    events: EventStore,
    job_id: str,
    target: State,
    *,
    sources: Collection[State] | None = None,
    attempt: int | None = None,
    reason: str | None = None,
    message: str | None = None,
    values: dict[str, Any] | None = None,
) -> bool:
    """Move a job to `target` if the table allows it from where it is; returns whether it moved.

    `sources` narrows from where, `attempt` is the fence of a worker's write; `values` are further columns to set.
    """
    row = locked(session, job_id)
    if row is None or (attempt is not None and row.attempt != attempt):
        return False
    source = State(row.state)
    if not is_allowed(source, target) or (sources is not None and source not in sources):
        return False
    now = now_of(session)
    changes: dict[str, Any] = {"state": target.value, "reason": reason, **(values or {})}
    if target in TERMINAL:
        changes["ended_at"] = now
    if source in LIVE and target not in LIVE:
        changes |= {"lease_until": None, "host_id": None, "stop_intent": None, "phase": None, "taken_up": False}
        changes["run_s"] = row.run_s + _release(session, row, now, reason or target.value)
    session.execute(update(JobRow).where(JobRow.id == job_id, JobRow.state == source.value).values(**changes))
    text = message or (reason_of(reason).message if reason else f"the job is {target}")
    data = {"from": source.value, "to": target.value, "reason": reason}
    record = Record(type="state", message=text, level=_LEVEL.get(target, "info"), data=data)
    events.append(session, job_id, changes.get("attempt", row.attempt), [record])
    session.refresh(row)
    announce(session, team=row.team, job_id=job_id, kind=row.kind, state=target.value, now=now)
    if target in TERMINAL:
        _settle_dependents(session, events, job_id, target)
    return True


@dataclass(frozen=True)
class Start:
    """A queued job's devices and what its next attempt is given."""

    job_id: str
    host_id: str
    device_ids: tuple[str, ...]
    memory_bytes: int | None
    """On each device; None: whole devices."""
    promised_end: float | None


def start_all(session: Session, events: EventStore, starts: Sequence[Start], lease_s: float) -> list[Start]:
    """Move queued jobs to `starting`, each with a new attempt and its devices; those that are queued no more are left.

    Many at once take a few statements, not a few each: a round may place hundreds.
    """
    still_queued = select(JobRow.id, JobRow.attempt).where(
        JobRow.id.in_([start.job_id for start in starts]), JobRow.state == State.QUEUED.value
    )
    before = dict(session.execute(still_queued.with_for_update()).tuples().all())
    moved = [start for start in starts if start.job_id in before]
    if not moved:
        return []
    now = now_of(session)
    for_next = {
        "state": State.STARTING.value,
        "reason": None,
        "attempt": JobRow.attempt + 1,
        "host_id": bindparam("on_host"),
        "lease_until": now + lease_s,
        "taken_up": False,
        "not_before": None,
        "phase": None,
        "promised_start": func.coalesce(JobRow.promised_start, now),
    }
    connection = session.connection()  # the session's own way with many rows takes several times as long
    connection.execute(
        update(JobRow).where(JobRow.id == bindparam("of_job"), JobRow.state == State.QUEUED.value).values(**for_next),
        [{"of_job": start.job_id, "on_host": start.host_id} for start in moved],
    )
    attempts = {start.job_id: before[start.job_id] + 1 for start in moved}
    _add_attempts(connection, moved, attempts, now)
    data = {"from": State.QUEUED.value, "to": State.STARTING.value, "reason": None}
    told = [Record(type="state", message=f"placed on {', '.join(start.device_ids)}", data=data) for start in moved]
    events.append_to_each(
        session, {start.job_id: (attempts[start.job_id], record) for start, record in zip(moved, told, strict=True)}
    )
    return moved


def _add_attempts(connection: Connection, starts: Sequence[Start], attempts: Mapping[str, int], now: float) -> None:
    """The attempts that begin and the leases on their devices."""
    connection.execute(
        insert(AttemptRow),
        [
            {
                "job_id": start.job_id,
                "attempt": attempts[start.job_id],
                "host_id": start.host_id,
                "device_ids": list(start.device_ids),
                "placed_at": now,
                "memory_bytes": start.memory_bytes,
                "promised_end": start.promised_end,
                "records_read": 0,
                "processes": [],
            }
            for start in starts
        ],
    )
    connection.execute(
        insert(DeviceLeaseRow),
        [
            {"device_id": device_id, "job_id": start.job_id, "attempt": attempts[start.job_id]}
            for start in starts
            for device_id in start.device_ids
        ],
    )


def _release(session: Session, row: JobRow, now: float, outcome: str) -> float:
    """Give the attempt's devices back; returns the seconds for which it held them."""
    session.execute(delete(DeviceLeaseRow).where(DeviceLeaseRow.job_id == row.id))
    attempt = session.get(AttemptRow, (row.id, row.attempt))
    if attempt is None or attempt.ended_at is not None:
        return 0.0
    attempt.ended_at, attempt.outcome = now, outcome
    session.flush()
    held_s = now - attempt.placed_at
    charge(session, row.owner, row.team, held_s * _devices_held(session, row, attempt), now)
    return held_s


def _devices_held(session: Session, row: JobRow, attempt: AttemptRow) -> float:
    """How many devices the attempt kept from others: of a shared one the part that it was given."""
    if row.exclusive or attempt.memory_bytes is None:
        return float(len(attempt.device_ids))
    sizes = dict(session.execute(select(DeviceRow.id, DeviceRow.memory_bytes)).tuples().all())
    return sum(device_part(attempt.memory_bytes, False, sizes.get(device, 0)) for device in attempt.device_ids)


def _settle_dependents(session: Session, events: EventStore, job_id: str, ended: State) -> None:
    """Let the jobs that wait for this one go on, or end them with it."""
    waiting = session.scalars(
        select(DependencyRow.job_id)
        .join(JobRow, JobRow.id == DependencyRow.job_id)
        .where(DependencyRow.depends_on == job_id, JobRow.state == State.WAITING.value)
        .order_by(DependencyRow.job_id)
    ).all()
    for dependent in waiting:
        if ended is State.SUCCEEDED:
            release_if_ready(session, events, dependent)
        else:
            target = State.CANCELLED if ended is State.CANCELLED else State.FAILED
            text = f"it depends on {job_id}, which {'was cancelled' if ended is State.CANCELLED else 'failed'}"
            hint = reason_of("dependency_failed").hint
            error = {"code": "dependency_failed", "message": text, "hint": hint, "log_tail": None}
            transition(
                session, events, dependent, target, reason="dependency_failed", message=text, values={"error": error}
            )


def release_if_ready(session: Session, events: EventStore, job_id: str) -> None:
    """Queue a waiting job whose dependencies have all succeeded and whose datasets are here."""
    open_ones = session.scalar(
        select(DependencyRow.depends_on)
        .join(JobRow, JobRow.id == DependencyRow.depends_on)
        .where(DependencyRow.job_id == job_id, JobRow.state != State.SUCCEEDED.value)
        .limit(1)
    )
    open_pull = session.scalar(
        select(PullWaitRow.pull_id)
        .join(DatasetPullRow, DatasetPullRow.id == PullWaitRow.pull_id)
        .where(PullWaitRow.job_id == job_id, DatasetPullRow.status != "ready")
        .limit(1)
    )
    if open_ones is None and open_pull is None:
        now = now_of(session)
        transition(session, events, job_id, State.QUEUED, sources=[State.WAITING], values={"queued_at": now})


def end_by_intent(intent: StopIntent) -> tuple[State, str]:
    """Where a stop for `intent` ends, and its reason code."""
    code = {
        StopIntent.KILL: "cancelled",
        StopIntent.CANCEL: "cancelled",
        StopIntent.TIME_LIMIT: "time_limit",
        StopIntent.PAUSE: "paused",
        StopIntent.PREEMPT: "preempted",
        StopIntent.DRAIN: "drained",
    }[intent]
    return ENDS_IN[intent], code
