"""What a trainer's records change on its job: phase, counts, progress, metrics and checkpoints."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from opensloth.database import now_of
from opensloth.events.records import Record, finite
from opensloth.events.store import EventStore
from opensloth.jobs import chat_engines
from opensloth.jobs.rows import AttemptRow, CheckpointRow, JobRow
from opensloth.jobs.states import State
from opensloth.jobs.transitions import transition
from opensloth.storage.deletions import let_go

_CLOCKS_DIFFER_S = 2.0
"""Less is the time that it takes to ask."""
_LEVELS = {"info", "warning", "error"}


class RecordSink:
    """Applies a batch of records to the locked row of their job."""

    def __init__(self, events: EventStore) -> None:
        self._events = events

    def store(self, session: Session, row: JobRow, records: list[dict[str, Any]]) -> None:
        """Insert `records` as events of the present attempt and bring the job up to date.

        The trainer's times are of this host's clock; where that is wrong they are moved to the database's.
        """
        off_s = now_of(session) - time.time()
        records = [_on_time(finite(record), off_s if abs(off_s) > _CLOCKS_DIFFER_S else 0.0) for record in records]
        self._events.append(session, row.id, row.attempt, [as_record(record) for record in records])
        changes: dict[str, Any] = {}
        for record in records:
            data = record.get("data") or {}
            match record.get("type"):
                case "phase":
                    changes["phase"] = data.get("phase")
                case "data":
                    counts = dict(changes.get("data") or row.data or {})
                    split = str(data.get("split", "train"))
                    changes["data"] = counts | {split: {k: v for k, v in data.items() if k != "split"}}
                case "metrics":
                    changes["progress"] = _progress(data)
                    changes["metrics"] = dict(changes.get("metrics") or row.metrics or {}) | data.get("metrics", {})
                case "checkpoint":
                    self._checkpoint(session, row, data)
                case "started":
                    self._started(session, row, data)
                case "listening" if row.kind == "chat":
                    chat_engines.listening(session, row.id, row.attempt, data)
                case _:
                    pass
        if "progress" in changes:
            changes["progress"]["at"] = now_of(session)
        if changes:
            session.execute(update(JobRow).where(JobRow.id == row.id).values(**changes))
            session.refresh(row)

    def _started(self, session: Session, row: JobRow, data: dict[str, Any]) -> None:
        now = now_of(session)
        resumed = int(data.get("resumed_step") or 0)
        session.execute(
            update(AttemptRow)
            .where(AttemptRow.job_id == row.id, AttemptRow.attempt == row.attempt)
            .values(resumed_step=resumed, first_step_at=now)
        )
        session.execute(update(JobRow).where(JobRow.id == row.id).values(started_at=row.started_at or now))
        message = f"training goes on from step {resumed}" if resumed else "the first step is done"
        if row.kind == "export":
            message = "the export has begun"
        elif row.kind == "evaluation":
            message = "the evaluation has begun"
        elif row.kind == "command":
            message = "the command has begun"
        elif row.kind == "chat":
            message = "the engine answers"
        transition(session, self._events, row.id, State.RUNNING, sources=[State.STARTING], message=message)

    @staticmethod
    def _checkpoint(session: Session, row: JobRow, data: dict[str, Any]) -> None:
        """Announce a checkpoint, and let go of those that it replaces or that make room for it."""
        step = int(data["step"])
        gone = {str(key) for key in data.get("removed") or []}
        replaced = session.scalar(
            select(CheckpointRow.key).where(CheckpointRow.job_id == row.id, CheckpointRow.step == step)
        )
        if replaced is not None:
            gone.add(replaced)
        session.merge(
            CheckpointRow(
                job_id=row.id,
                step=step,
                attempt=row.attempt,
                key=str(data["key"]),
                bytes=int(data.get("bytes", 0)),
                save_s=float(data.get("save_s", 0.0)),
                metrics=data.get("metrics") or {},
                created_at=now_of(session),
            )
        )
        session.flush()
        gone.discard(str(data["key"]))
        # A retry goes on from checkpoints of the job that it retries, which are not its own to remove.
        own = f"jobs/{row.id}/checkpoints/"
        known = set(session.scalars(select(CheckpointRow.key).where(CheckpointRow.job_id == row.id)))
        if replaced is not None:
            known.add(replaced)
        for key in sorted(gone & known):
            session.execute(delete(CheckpointRow).where(CheckpointRow.job_id == row.id, CheckpointRow.key == key))
            if key.startswith(own):
                let_go(session, key)


def _on_time(record: dict[str, Any], off_s: float) -> dict[str, Any]:
    told = record.get("time")
    return record | {"time": told + off_s} if off_s and isinstance(told, int | float) else record


def as_record(record: dict[str, Any]) -> Record:
    """A trainer's record as an event; what it left out or got wrong is made good."""
    level = record.get("level")
    time = record.get("time")
    return Record(
        type=str(record.get("type", "log")),
        level=level if level in _LEVELS else "info",
        message=str(record.get("message") or record.get("type", "")),
        data=record.get("data") or {},
        time=float(time) if isinstance(time, int | float) else None,
    )


def _progress(data: dict[str, Any]) -> dict[str, Any]:
    step, most = data.get("step"), data.get("max_steps")
    percent = round(100.0 * step / most, 2) if isinstance(step, int) and isinstance(most, int) and most > 0 else None
    return {
        "step": step or 0,
        "max_steps": most,
        "epoch": data.get("epoch"),
        "tokens": data.get("tokens"),
        "percent": percent,
        "eta_s": data.get("eta_s"),
    }
