"""Teams: people who see each other's work; everybody is in exactly one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import Caller, visible_to
from opensloth.accounts.rows import DEFAULT_TEAM, TeamRow, UserRow
from opensloth.accounts.users import NAME, Belongings
from opensloth.database import Database, now_of
from opensloth.errors import Conflict, FieldError, InvalidInput, NotFound


class TeamService:
    """Lists teams, and lets admins make and change them."""

    def __init__(self, database: Database, belongings: Belongings) -> None:
        self._db = database
        self._belongings = belongings

    def list(self, caller: Caller) -> list[TeamRow]:
        """Every team for an admin, one's own for others; by name."""
        with self._db.read() as session:
            return list(session.scalars(select(TeamRow).where(visible_to(caller, TeamRow.name)).order_by(TeamRow.name)))

    def get(self, name: str, caller: Caller) -> TeamRow:
        """One team; raises NotFound."""
        with self._db.read() as session:
            return _found(session, name, caller)

    def create(self, name: str, caller: Caller, limits: Mapping[str, Any]) -> TeamRow:
        """Make a team. Raises InvalidInput for a bad name, Conflict where there is one."""
        caller.require_admin("make teams")
        if not NAME.fullmatch(name):
            message = "use 1 to 64 letters, digits, dots, dashes, underscores or @"
            raise InvalidInput("the team's name is not usable", fields=[FieldError("name", message)])
        with self._db.write() as session:
            if session.get(TeamRow, name) is not None:
                raise Conflict(f"there is a team {name!r} already", hint=f"`opensloth teams set {name}` changes it")
            row = TeamRow(name=name, created_at=now_of(session), **limits)
            session.add(row)
            session.flush()
            record(session, caller, "team.create", name, **limits)
            return row

    def update(self, name: str, caller: Caller, changes: Mapping[str, Any]) -> TeamRow:
        """Change a team's share and limits."""
        caller.require_admin("change teams")
        with self._db.write() as session:
            row = _found(session, name, caller)
            for field, value in changes.items():
                setattr(row, field, value)
            record(session, caller, "team.change", name, **changes)
            return row

    def delete(self, name: str, caller: Caller) -> None:
        """Remove a team that nobody is in and nothing belongs to; raises Conflict for any other."""
        caller.require_admin("delete teams")
        # The lock is the one under which users change their team.
        with self._db.scheduler_lock() as session:
            row = _found(session, name, caller)
            if name == DEFAULT_TEAM:
                raise Conflict("the default team stays: new users are put into it")
            member = session.scalar(select(UserRow.name).where(UserRow.team == name).limit(1))
            if member is not None:
                hint = f"`opensloth users set {member} --team OTHER` moves them"
                raise Conflict(f"{member} is in the team {name!r}", hint=hint, code="in_use")
            if left := self._belongings(session, "team", name):
                raise Conflict(f"the team {name!r} has {left}", hint="delete that first", code="in_use")
            session.delete(row)
            record(session, caller, "team.delete", name)


def _found(session: Session, name: str, caller: Caller) -> TeamRow:
    row = session.get(TeamRow, name)
    if row is None or not caller.can_see(name):
        raise NotFound(f"there is no team {name!r}", hint="`opensloth teams` lists them")
    return row
