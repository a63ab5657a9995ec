"""What a worker may write about an attempt; every write names the attempt and is refused once another one took over."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from opensloth.database import Database, db_now, now_of
from opensloth.errors import Unavailable
from opensloth.events.publisher import Publisher
from opensloth.events.records import Record
from opensloth.events.store import EventStore
from opensloth.jobs.blame import LOST
from opensloth.jobs.endings import End, Endings
from opensloth.jobs.progress import RecordSink
from opensloth.jobs.rows import AttemptRow, CheckpointRow, JobRow
from opensloth.jobs.states import LIVE, State, StopIntent, strengthens
from opensloth.jobs.transitions import locked, transition
from opensloth.settings import Settings

_LIVE = [state.value for state in LIVE]
SLOW_S = 2.0
"""A database that needs so long for one small write has kept the leases of others waiting too."""


@dataclass(frozen=True)
class Placed:
    """An attempt that this host has to supervise."""

    job: JobRow
    attempt: int
    device_ids: tuple[str, ...]
    checkpoints: tuple[str, ...]
    """Storage keys of the complete checkpoints, newest first."""
    memory_bytes: int | None = None
    """What it may use on each device; None: whole devices."""
    longest_step_s: float = 0.0
    """As its latest metrics said; a stop has to wait for a step and a save."""
    longest_save_s: float = 0.0


class AttemptService:
    """The worker's side of a job."""

    def __init__(self, database: Database, events: EventStore, publisher: Publisher, settings: Settings) -> None:
        self._db = database
        self._events = events
        self._settings = settings
        self._sink = RecordSink(events)
        self._endings = Endings(events, publisher, settings)

    def take_up(self, host_id: str) -> list[Placed]:
        """Claim the placements of this host that nobody supervises yet."""
        with self._db.read() as session:
            waiting = session.scalar(
                select(JobRow.id)
                .where(JobRow.state.in_(_LIVE), JobRow.host_id == host_id, JobRow.taken_up.is_(False))
                .limit(1)
            )
        if waiting is None:
            return []
        with self._db.write() as session:
            ids = session.scalars(
                update(JobRow)
                .where(
                    JobRow.state.in_(_LIVE),
                    JobRow.host_id == host_id,
                    JobRow.taken_up.is_(False),
                    JobRow.lease_until > db_now(),
                )
                .values(taken_up=True, lease_until=db_now() + self._settings.lease_s)
                .returning(JobRow.id)
            ).all()
            return [self._placed(session, job_id) for job_id in sorted(ids)]

    def _placed(self, session: Session, job_id: str) -> Placed:
        job = session.get_one(JobRow, job_id, populate_existing=True)
        attempt = session.get_one(AttemptRow, (job_id, job.attempt))
        saved = session.execute(
            select(CheckpointRow.key, CheckpointRow.save_s)
            .where(CheckpointRow.job_id == job_id)
            .order_by(CheckpointRow.step.desc())
        ).all()
        metrics = job.metrics or {}
        return Placed(
            job,
            job.attempt,
            tuple(attempt.device_ids),
            tuple(key for key, _ in saved),
            attempt.memory_bytes,
            longest_step_s=float(metrics.get("longest_step_s") or metrics.get("step_time_s") or 0.0),
            longest_save_s=max((save_s for _, save_s in saved), default=0.0),
        )

    def started_processes(self, job_id: str, attempt: int, processes: list[dict[str, Any]]) -> None:
        """Remember pid and start time of the ranks, so that a later worker kills these and no others."""
        with self._db.write() as session:
            session.execute(
                update(AttemptRow)
                .where(AttemptRow.job_id == job_id, AttemptRow.attempt == attempt)
                .values(processes=processes)
            )

    def set_resolved(self, job_id: str, attempt: int, resolved: dict[str, Any]) -> None:
        """Store what the job trains with, now that its device is known."""
        with self._db.write() as session:
            session.execute(
                update(JobRow).where(JobRow.id == job_id, JobRow.attempt == attempt).values(resolved=resolved)
            )

    def renew(self, job_id: str, attempt: int) -> tuple[bool, StopIntent | None]:
        """Keep the lease: whether the attempt is still ours, and the stop that was asked for, if any.

        One that has run out is still ours until somebody takes the job back: what became of it can still be told.
        """
        with self._db.write(urgent=True) as session:
            row = session.execute(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.attempt == attempt, JobRow.state.in_(_LIVE))
                .values(lease_until=db_now() + self._settings.lease_s)
                .returning(JobRow.stop_intent)
            ).one_or_none()
            if row is None:
                _was_cut_off(session, job_id, attempt)
                return False, None
        return True, StopIntent(row[0]) if row[0] else None

    def stop_intents(self, host_id: str) -> dict[str, StopIntent]:
        """The jobs of this host that have to stop, and why."""
        with self._db.read() as session:
            rows = session.execute(
                select(JobRow.id, JobRow.stop_intent).where(
                    JobRow.state == State.STOPPING.value, JobRow.host_id == host_id
                )
            )
            return {job_id: StopIntent(intent) for job_id, intent in rows if intent}

    def ask_stop(self, job_id: str, attempt: int, intent: StopIntent, message: str) -> None:
        """Begin a stop that the worker itself wants (drain, time limit)."""
        with self._db.write() as session:
            row = locked(session, job_id)
            if row is None or row.attempt != attempt:
                return
            present = StopIntent(row.stop_intent) if row.stop_intent else None
            if row.state == State.STOPPING and strengthens(intent, present):
                session.execute(update(JobRow).where(JobRow.id == job_id).values(stop_intent=intent.value))
                return
            transition(
                session,
                self._events,
                job_id,
                State.STOPPING,
                attempt=attempt,
                message=message,
                values={"stop_intent": intent.value},
            )

    def record(self, job_id: str, attempt: int, records: list[dict[str, Any]], start: int, end: int) -> bool:
        """Store the records of `events.jsonl[start:end]` once; False if the attempt is not ours any more."""
        with self._db.write() as session:
            row = locked(session, job_id)
            if row is None or row.attempt != attempt or row.state not in _LIVE:
                return False
            moved = session.scalar(
                update(AttemptRow)
                .where(AttemptRow.job_id == job_id, AttemptRow.attempt == attempt, AttemptRow.records_read == start)
                .values(records_read=end)
                .returning(AttemptRow.records_read)
            )
            if moved is not None:
                self._sink.store(session, row, records)
        return True

    def note(self, job_id: str, attempt: int, record: Record) -> None:
        """An event of the worker's own; one of an attempt that is not ours any more is left out."""
        with self._db.write() as session:
            row = locked(session, job_id)
            if row is not None and row.attempt == attempt and row.state in _LIVE:
                self._events.append(session, job_id, attempt, [record])

    def end(self, job_id: str, attempt: int, end: End) -> State | None:
        """Write how the attempt ended; returns the job's new state, None if the attempt was not ours any more."""
        with self._db.write() as session:
            state = self._endings.write(session, locked(session, job_id), attempt, end)
            if state is None and end.code != LOST:
                _was_cut_off(session, job_id, attempt)
            return state

    def reap(self, supervised: Collection[tuple[str, int]] = ()) -> list[str]:
        """Take back the jobs whose lease has run out, wherever they ran; returns their ids.

        Of the attempts in `supervised` the caller itself knows better how they end. Raises Unavailable where a job
        could be written only after a while: others may have waited as long to renew.
        """
        with self._db.read() as session:
            lost = session.execute(
                select(JobRow.id, JobRow.attempt).where(JobRow.state.in_(_LIVE), JobRow.lease_until < db_now())
            ).all()
        found = [(job_id, attempt) for job_id, attempt in lost if (job_id, attempt) not in supervised]
        return [job_id for job_id, attempt in found if self._reap(job_id, attempt)]

    def _reap(self, job_id: str, attempt: int) -> bool:
        began = time.monotonic()
        with self._db.write() as session:
            row = locked(session, job_id)
            if time.monotonic() - began > SLOW_S:
                raise Unavailable("the database was busy", hint="the lost jobs are looked for again in a while")
            if row is None or (row.lease_until or 0.0) >= now_of(session):
                return False
            code = "host_lost" if row.taken_up else "not_taken_up"
            return self._endings.write(session, row, attempt, End("lost", code)) is not None

    def left(self, host_id: str, supervised: Collection[tuple[str, int]]) -> list[tuple[str, int]]:
        """The attempts (job, attempt) that this host has taken up and that are not in `supervised`.

        There are some where taking them up was applied but reported failed. `supervised` is of before this call.
        """
        with self._db.read() as session:
            rows = session.execute(
                select(JobRow.id, JobRow.attempt).where(
                    JobRow.state.in_(_LIVE), JobRow.host_id == host_id, JobRow.taken_up.is_(True)
                )
            )
            return [(job_id, attempt) for job_id, attempt in rows if (job_id, attempt) not in supervised]

    def abandon(self, host_id: str) -> list[tuple[str, int, list[dict[str, Any]]]]:
        """What an earlier worker of this host left behind: (job, attempt, processes)."""
        with self._db.read() as session:
            rows = session.execute(
                select(JobRow.id, JobRow.attempt, AttemptRow.processes)
                .join(AttemptRow, (AttemptRow.job_id == JobRow.id) & (AttemptRow.attempt == JobRow.attempt))
                .where(JobRow.state.in_(_LIVE), JobRow.host_id == host_id, JobRow.taken_up.is_(True))
            )
            return [(job_id, attempt, list(processes)) for job_id, attempt, processes in rows]


def _was_cut_off(session: Session, job_id: str, attempt: int) -> None:
    """A host that still speaks of an attempt was not taken down: its loss counts against the job no more."""
    lost = (AttemptRow.job_id == job_id, AttemptRow.attempt == attempt, AttemptRow.outcome == LOST)
    session.execute(update(AttemptRow).where(*lost).values(outcome="lease_lost"))
