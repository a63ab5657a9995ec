"""What goes when storage is cleaned: what is older than the settings keep it, and what the database does not know."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from opensloth.accounts import audit
from opensloth.accounts.callers import Caller
from opensloth.database import Database, now_of
from opensloth.datasets.rows import FileRow
from opensloth.jobs.deletion import forget_checkpoints, user_of_checkpoints, user_of_job
from opensloth.jobs.rows import JobRow
from opensloth.jobs.states import TERMINAL, State
from opensloth.jobs.transitions import locked
from opensloth.models.rows import ModelRow
from opensloth.settings import Settings
from opensloth.storage import Storage
from opensloth.storage.deletions import Deletions

DAY_S = 86_400.0
ORPHAN_AGE_S = DAY_S
"""What nothing refers to may be an upload that is not written down yet."""
_CHUNK = 200
MOST_ITEMS = 1000
Kind = Literal["checkpoints", "logs", "result", "orphan"]


class Collectable(BaseModel):
    """Something in storage that goes; `job_id` is None for what belongs to no job."""

    kind: Kind
    key: str
    bytes: int
    job_id: str | None = None


class GcReport(BaseModel):
    """What was removed, or would be; `items` are at most the first 1,000 of `count`, `kinds` has the bytes of each."""

    object: Literal["gc"] = "gc"
    dry_run: bool
    count: int
    bytes: int
    kinds: dict[str, int]
    items: list[Collectable]


class RetentionService:
    """Cleans storage; a job that is kept, and whatever something still needs, stays."""

    def __init__(self, database: Database, storage: Storage, deletions: Deletions, settings: Settings) -> None:
        self._db = database
        self._storage = storage
        self._deletions = deletions
        days: dict[Kind, float | None] = {
            "checkpoints": settings.keep_checkpoints_days,
            "logs": settings.keep_logs_days,
            "result": settings.keep_results_days,
        }
        self._ages = {kind: limit * DAY_S for kind, limit in days.items() if limit is not None}

    def collect(self, caller: Caller, *, dry_run: bool) -> GcReport:
        """Remove everything that may go, for an admin; with `dry_run` only say what that would be."""
        caller.require_admin("clean the storage")
        if not dry_run:
            self._deletions.redo(0.0)
            self._storage.sweep()
        found = list(self._aged() if dry_run else (item for item in self._aged() if self._remove_aged(item)))
        for item in self._orphans():
            if not dry_run:
                self._storage.delete(item.key)
            found.append(item)
        kinds: dict[str, int] = {}
        for item in found:
            kinds[item.kind] = kinds.get(item.kind, 0) + item.bytes
        total = sum(kinds.values())
        if not dry_run and found:
            with self._db.write() as session:
                audit.record(session, caller, "gc", "storage", count=len(found), bytes=total)
        return GcReport(dry_run=dry_run, count=len(found), bytes=total, kinds=kinds, items=found[:MOST_ITEMS])

    def expire(self) -> int:
        """Remove what is older than the settings keep it, and nothing else; returns how much went.

        Workers do this by themselves. What the database does not know is left to an admin: a worker that was given
        another database by mistake would take everything for that.
        """
        return sum(self._remove_aged(item) for item in self._aged()) if self._ages else 0

    # What is too old

    def _aged(self) -> Iterator[Collectable]:
        if not self._ages:
            return
        for names in _chunks(self._storage.list_keys("jobs")):
            with self._db.read() as session:
                now = now_of(session)
                ended = select(JobRow).where(
                    JobRow.id.in_(names),
                    JobRow.state.in_([state.value for state in TERMINAL]),
                    JobRow.kept.is_(False),
                    JobRow.ended_at < now - min(self._ages.values()),
                )
                candidates = [
                    (kind, row.id)
                    for row in session.scalars(ended)
                    for kind, age in self._ages.items()
                    if (row.ended_at or now) < now - age and self._user(session, kind, row.id) is None
                ]
            for kind, job_id in candidates:
                key = _key(kind, job_id)
                if self._storage.exists(key):
                    yield Collectable(kind=kind, key=key, bytes=self._storage.usage(key).bytes, job_id=job_id)

    def _remove_aged(self, item: Collectable) -> bool:
        """Let it go, unless somebody began to need it since it was found."""
        job_id = item.job_id or ""
        with self._db.write() as session:
            row = locked(session, job_id)
            if row is None or State(row.state) not in TERMINAL or row.kept:
                return False
            if self._user(session, item.kind, job_id) is not None:
                return False
            if item.kind == "checkpoints":
                forget_checkpoints(session, job_id)
            elif item.kind == "result":
                session.execute(delete(ModelRow).where(ModelRow.job_id == job_id))
                row.result = {**(row.result or {}), "model": None, "artifacts": []}
            self._deletions.forget(session, [item.key])
        return True

    @staticmethod
    def _user(session: Session, kind: Kind, job_id: str) -> str | None:
        if kind == "logs":
            return None
        return user_of_checkpoints(session, job_id) if kind == "checkpoints" else user_of_job(session, job_id)

    # What nothing knows

    def _orphans(self) -> Iterator[Collectable]:
        known = {"jobs": JobRow.id, "files": FileRow.id}
        for folder, column in known.items():
            for names in _chunks(self._storage.list_keys(folder)):
                with self._db.read() as session:
                    there = set(session.scalars(select(column).where(column.in_(names))))
                yield from self._old(f"{folder}/{name}" for name in names if name not in there)
        names = self._storage.list_keys("models")
        with self._db.read() as session:
            rows = session.execute(select(ModelRow.id, ModelRow.storage_key)).all()
        used = {f"models/{model_id}" for model_id, _ in rows} | {str(key) for _, key in rows}
        yield from self._old(f"models/{name}" for name in names if f"models/{name}" not in used)

    def _old(self, keys: Iterator[str]) -> Iterator[Collectable]:
        for key in keys:
            usage = self._storage.usage(key)
            if usage.newest < time.time() - ORPHAN_AGE_S:
                yield Collectable(kind="orphan", key=key, bytes=usage.bytes)


def _key(kind: Kind, job_id: str) -> str:
    return f"jobs/{job_id}/{'artifacts' if kind == 'result' else kind}"


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _CHUNK):
        yield names[start : start + _CHUNK]
