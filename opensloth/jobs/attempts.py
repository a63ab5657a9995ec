"""What a worker may write about an attempt; every write names the attempt and is refused once another one took over."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from opensloth.database import Database, after_commit, db_now, now_of
from opensloth.devices.shapes import learn
from opensloth.errors import Unavailable
from opensloth.events.publisher import Publisher
from opensloth.events.records import Record
from opensloth.events.store import EventStore
from opensloth.jobs.blame import LOST, in_a_row, suspects
from opensloth.jobs.progress import RecordSink
from opensloth.jobs.reasons import Reason, reason
from opensloth.jobs.results_file import ResultsFile, add_results
from opensloth.jobs.retry_policy import History, decide
from opensloth.jobs.rows import AttemptRow, CheckpointRow, JobRow, suffix_of
from opensloth.jobs.states import LIVE, State, StopIntent, strengthens
from opensloth.jobs.transitions import end_by_intent, locked, transition
from opensloth.models.registry import add_result
from opensloth.settings import Settings

_LIVE = [state.value for state in LIVE]
_AGAIN = {"command": ("not_taken_up",), "chat": ("not_taken_up", "estimate_low")}
"""A command may have done half of what it is for: it begins a second time only if it never began. For a chat engine
the next request starts another one. Other kinds begin again after every reason that can be tried again."""
SLOW_S = 2.0
"""A database that needs so long for one small write has kept the leases of others waiting too."""
APART_LEASES = 5
"""So many leases lie between the starts of jobs of which one takes workers down."""


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


@dataclass(frozen=True)
class End:
    """How the processes of an attempt ended."""

    kind: Literal["succeeded", "stopped", "failed", "lost"]
    code: str = "internal_error"
    message: str | None = None
    hint: str | None = None
    log_tail: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None
    results: ResultsFile | None = None
    """The stored file of step metrics."""
    peak_bytes: int | None = None
    """The most that a rank was seen to use on its device."""
    step_s: float | None = None
    """Mean seconds of a step."""
    charged: bool = False
    """A retry counts, even if its reason's do not."""


class AttemptService:
    """The worker's side of a job."""

    def __init__(self, database: Database, events: EventStore, publisher: Publisher, settings: Settings) -> None:
        self._db = database
        self._events = events
        self._publisher = publisher
        self._settings = settings
        self._sink = RecordSink(events)

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
            state = self._end(session, locked(session, job_id), attempt, end)
            if state is None and end.code != LOST:
                _was_cut_off(session, job_id, attempt)
            return state

    def _end(self, session: Session, row: JobRow | None, attempt: int, end: End) -> State | None:
        if row is None or row.attempt != attempt or row.state not in _LIVE:
            return None
        self._measured(session, row, end)
        if end.kind == "stopped" and row.state != State.STOPPING:
            # Its host was told to go while the database was away, and nobody else could ask for the stop.
            values = {"stop_intent": StopIntent.DRAIN.value}
            transition(session, self._events, row.id, State.STOPPING, message="its host stops", values=values)
        if end.kind == "succeeded":
            self._succeed(session, row, end)
        elif row.state == State.STOPPING:
            self._stopped(session, row, end)
        else:
            self._retry_or_fail(session, row, end)
        after_commit(session, self._publisher.wake_planner)
        return State(row.state)

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
            return self._end(session, row, attempt, End("lost", code)) is not None

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

    @staticmethod
    def _measured(session: Session, row: JobRow, end: End) -> None:
        """Keep what the attempt used, and let estimates of later jobs learn from one that succeeded."""
        attempt = session.get(AttemptRow, (row.id, row.attempt))
        if attempt is None:
            return
        attempt.peak_bytes = end.peak_bytes
        if end.kind == "succeeded" and row.shape is not None:
            began = attempt.first_step_at
            start_s = None if began is None else began - attempt.placed_at
            learn(session, row.shape, peak_bytes=end.peak_bytes, start_s=start_s, step_s=end.step_s)

    def _succeed(self, session: Session, row: JobRow, end: End) -> None:
        artifacts = end.result.get("artifacts", [])
        model_id = None
        if end.result.get("is_model", True):
            model_id = add_result(
                session,
                job_id=row.id,
                base_id=str(end.result.get("base", row.model_id)),
                owner=row.owner,
                team=row.team,
                name=suffix_of(row),
                key=str(end.result["key"]),
                size=sum(int(artifact["bytes"]) for artifact in artifacts),
                lora=end.lora,
            )
        if end.results is not None:
            add_results(session, row, end.results)
        values = {
            "result": {
                "model": model_id,
                "artifacts": artifacts,
                "exit_code": end.result.get("exit_code"),
                "metrics_file": end.results.id if end.results else None,
            },
            "error": None,
            "progress": {**(row.progress or {}), "percent": 100.0, "eta_s": 0.0},
        }
        message = f"the result is {model_id}" if model_id else "the result is there"
        if row.kind == "command":
            message = "the command has ended"
        elif row.kind == "chat":
            message = "nobody asked the engine anything for a while"
        transition(session, self._events, row.id, State.SUCCEEDED, message=message, values=values)

    def _stopped(self, session: Session, row: JobRow, end: End) -> None:
        intent = StopIntent(row.stop_intent or StopIntent.DRAIN)
        target, code = end_by_intent(intent)
        values: dict[str, Any] = {}
        if target is State.QUEUED and row.kind == "command":
            target = State.FAILED  # nobody asked for its beginning a second time
        elif target is State.QUEUED and row.kind == "chat":
            target = State.SUCCEEDED  # the next request starts another one
        if target is State.FAILED:
            values["error"] = _error(reason(code), end, reason(code).message)
        transition(session, self._events, row.id, target, reason=code, values=values)

    def _retry_or_fail(self, session: Session, row: JobRow, end: End) -> None:
        history, settings = self._history(session, row, end.code), self._settings
        apart_s = APART_LEASES * settings.lease_s
        decision = decide(end.code, history, settings.retry_backoff_s, charged=end.charged, apart_s=apart_s)
        why = decision.reason
        values: dict[str, Any] = {}
        if end.code == "checkpoint_error":
            self._forget_newest_checkpoint(session, row.id)
        elif end.code == "estimate_low":
            values["memory_bytes"] = None  # whole devices from now on
        text = end.message or why.message
        if "exit_code" in end.result:
            values["result"] = {"model": None, "artifacts": [], "exit_code": end.result["exit_code"]}
        if not decision.retry or end.code not in _AGAIN.get(row.kind, (end.code,)):
            values["error"] = _error(why, end, text)
            transition(session, self._events, row.id, State.FAILED, reason=why.code, message=text, values=values)
            return
        values |= {"retries": decision.retries, "not_before": now_of(session) + decision.wait_s}
        again = f"{text}; it is tried again"
        transition(session, self._events, row.id, State.QUEUED, reason=why.code, message=again, values=values)

    @staticmethod
    def _history(session: Session, row: JobRow, code: str) -> History:
        history = History(row.retries, row.max_retries, in_a_row(session, row, code))
        limit = reason(code).limit
        if code != LOST or limit is None or history.in_a_row < limit:
            return history
        order = suspects(session, row)
        return replace(history, suspects=len(order), place=order.index(row.id))

    @staticmethod
    def _forget_newest_checkpoint(session: Session, job_id: str) -> None:
        newest = select(func.max(CheckpointRow.step)).where(CheckpointRow.job_id == job_id).scalar_subquery()
        session.execute(delete(CheckpointRow).where(CheckpointRow.job_id == job_id, CheckpointRow.step == newest))


def _was_cut_off(session: Session, job_id: str, attempt: int) -> None:
    """A host that still speaks of an attempt was not taken down: its loss counts against the job no more."""
    lost = (AttemptRow.job_id == job_id, AttemptRow.attempt == attempt, AttemptRow.outcome == LOST)
    session.execute(update(AttemptRow).where(*lost).values(outcome="lease_lost"))


def _error(why: Reason, end: End, text: str) -> dict[str, Any]:
    return {"code": why.code, "message": text, "hint": end.hint or why.hint, "log_tail": end.log_tail}
