"""Users: the people and programs that keys speak for, each in one team."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from opensloth.accounts.admins import require_another_admin
from opensloth.accounts.audit import record
from opensloth.accounts.callers import Caller, Role, require_visible, visible_to
from opensloth.accounts.rows import ApiKeyRow, SecretRow, TeamRow, UserRow
from opensloth.database import Database, now_of
from opensloth.errors import Conflict, FieldError, InvalidInput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HINT = "`opensloth users` lists them"


Belongings = Callable[[Session, Literal["user", "team"], str], str | None]
"""Says in words what still belongs to a user or team, as `3 jobs`; None: nothing. Given by who wires the services."""


class UserService:
    """Lists users, and lets admins make and change them; who has left something here is disabled, not deleted."""

    def __init__(self, database: Database, belongings: Belongings) -> None:
        self._db = database
        self._belongings = belongings

    def list(self, caller: Caller, team: str | None = None) -> list[UserRow]:
        """The users whom the caller sees, by name."""
        query = select(UserRow).where(visible_to(caller, UserRow.team)).order_by(UserRow.name)
        if team is not None:
            query = query.where(UserRow.team == team)
        with self._db.read() as session:
            return list(session.scalars(query))

    def get(self, name: str, caller: Caller) -> UserRow:
        """One user; raises NotFound."""
        with self._db.read() as session:
            return require_visible(session.get(UserRow, name), caller, f"user {name!r}", _HINT)

    def create(
        self, name: str, caller: Caller, *, role: Role, team: str, account: str | None, limits: Mapping[str, Any]
    ) -> UserRow:
        """Make a user. Raises InvalidInput for a bad name or team, Conflict where the name is taken."""
        caller.require_admin("make users")
        with self._db.write() as session:
            if session.get(UserRow, name) is not None:
                raise Conflict(f"there is a user {name!r} already", hint=f"`opensloth users set {name}` changes it")
            return add_user(session, caller, name, role, team, {**limits, "account": account}, field="name")

    def update(self, name: str, caller: Caller, changes: Mapping[str, Any]) -> UserRow:
        """Change role, team, account, limits, or (by `disabled`) whether the user's keys are accepted.

        What a user has made stays with the team for which it was made. Raises Conflict for the last admin.
        """
        caller.require_admin("change users")
        # The lock is the one under which keys are revoked: one admin has to stay.
        with self._db.scheduler_lock() as session:
            row = require_visible(session.get(UserRow, name), caller, f"user {name!r}", _HINT)
            if "team" in changes:
                require_team(session, changes["team"])
            if row.role == "admin" and (changes.get("role", "admin") != "admin" or changes.get("disabled")):
                require_another_admin(session, user=name)
            for field, value in changes.items():
                if field != "disabled":
                    setattr(row, field, value)
                elif not value:
                    row.disabled_at = None
                elif row.disabled_at is None:
                    row.disabled_at = now_of(session)
            record(session, caller, "user.change", name, **changes)
            return row

    def delete(self, name: str, caller: Caller) -> None:
        """Remove a user to whom nothing belongs, with the keys; raises Conflict for any other, and the last admin."""
        caller.require_admin("delete users")
        with self._db.scheduler_lock() as session:
            row = require_visible(session.get(UserRow, name), caller, f"user {name!r}", _HINT)
            require_another_admin(session, user=name)
            if left := self._belongings(session, "user", name):
                hint = f"`opensloth users set {name} --disabled` locks the user out and keeps it"
                raise Conflict(f"the user {name!r} has {left}", hint=hint, code="in_use")
            session.execute(delete(ApiKeyRow).where(ApiKeyRow.owner == name))
            session.execute(delete(SecretRow).where(SecretRow.owner == name))
            session.delete(row)
            record(session, caller, "user.delete", name)


def add_user(
    session: Session,
    by: Caller,
    name: str,
    role: Role,
    team: str,
    more: Mapping[str, Any] | None = None,
    field: str = "owner",
) -> UserRow:
    """Insert a user; raises InvalidInput for a name that cannot be one and for a team that does not exist.

    `more` holds further columns, `field` is what the caller called the name.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            "the user's name is not usable",
            fields=[FieldError(field, "use 1 to 64 letters, digits, dots, dashes, underscores or @")],
        )
    require_team(session, team)
    now = now_of(session)
    row = UserRow(name=name, team=team, role=role, created_at=now, **(more or {}))
    session.add(row)
    session.flush()
    record(session, by, "user.create", name, role=role, team=team, **(more or {}))
    return row


def require_team(session: Session, name: str) -> None:
    """Raise InvalidInput unless there is such a team."""
    if session.get(TeamRow, name) is None:
        message = f"there is no team {name[:64]!r}; `opensloth teams create` makes one"
        raise InvalidInput("the team does not exist", fields=[FieldError("team", message)])
