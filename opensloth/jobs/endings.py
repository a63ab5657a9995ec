"""How an attempt ended, and what becomes of its job then: a result, a retry, or its end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from opensloth.database import after_commit, now_of
from opensloth.devices.shapes import learn
from opensloth.events.publisher import Publisher
from opensloth.events.store import EventStore
from opensloth.jobs.blame import LOST, in_a_row, suspects
from opensloth.jobs.reasons import Reason, reason
from opensloth.jobs.results_file import ResultsFile, add_results
from opensloth.jobs.retry_policy import History, decide
from opensloth.jobs.rows import AttemptRow, CheckpointRow, JobRow, suffix_of
from opensloth.jobs.states import LIVE, State, StopIntent
from opensloth.jobs.transitions import end_by_intent, transition
from opensloth.models.registry import add_result
from opensloth.settings import Settings

_LIVE = [state.value for state in LIVE]
_AGAIN = {"command": ("not_taken_up",), "chat": ("not_taken_up", "estimate_low")}
"""A command may have done half of what it is for: it begins a second time only if it never began. For a chat engine
the next request starts another one. Other kinds begin again after every reason that can be tried again."""
APART_LEASES = 5
"""So many leases lie between the starts of jobs of which one takes workers down."""


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


class Endings:
    """Writes ends, each in the transaction of whoever found out about it."""

    def __init__(self, events: EventStore, publisher: Publisher, settings: Settings) -> None:
        self._events = events
        self._publisher = publisher
        self._settings = settings

    def write(self, session: Session, row: JobRow | None, attempt: int, end: End) -> State | None:
        """End the job in `row`, which is locked; returns its new state, None if it is not at this attempt any more."""
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


def _error(why: Reason, end: End, text: str) -> dict[str, Any]:
    return {"code": why.code, "message": text, "hint": end.hint or why.hint, "log_tail": end.log_tail}
