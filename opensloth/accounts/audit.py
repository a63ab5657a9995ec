"""Who did what, and to what: one row for each change, written in the change's own transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller
from opensloth.accounts.rows import AuditRow
from opensloth.database import Database, db_now


def record(session: Session, caller: Caller, action: str, object_id: str, **data: Any) -> None:
    """Note that `caller` did `action` (as `job.cancel`) to `object_id`; `data` holds what JSON can, no secrets."""
    session.execute(
        insert(AuditRow).values(
            time=db_now(),
            actor=caller.owner,
            team=caller.team,
            key_id=caller.key_id,
            action=action,
            object_id=object_id,
            data=data,
        )
    )


class AuditService:
    """Reads the log."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def list(
        self,
        caller: Caller,
        *,
        actor: str | None = None,
        action: str | None = None,
        object_id: str | None = None,
        limit: int = 20,
        after: int | None = None,
    ) -> tuple[list[AuditRow], bool]:
        """Entries, newest first, and whether more follow: all for an admin, one's own for others.

        `action` also stands for all that begin with it and a dot; `after` is the id of the last entry seen.
        """
        query = select(AuditRow).order_by(AuditRow.id.desc())
        if not caller.is_admin:
            query = query.where(AuditRow.actor == caller.owner)
        if actor is not None:
            query = query.where(AuditRow.actor == actor)
        if action is not None:
            query = query.where((AuditRow.action == action) | AuditRow.action.startswith(f"{action}.", autoescape=True))
        if object_id is not None:
            query = query.where(AuditRow.object_id == object_id)
        if after is not None:
            query = query.where(AuditRow.id < after)
        with self._db.read() as session:
            rows = session.scalars(query.limit(limit + 1)).all()
        return list(rows[:limit]), len(rows) > limit
