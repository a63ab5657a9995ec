"""There is always an admin who can get in: what would shut the last one out is refused."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from opensloth.accounts.rows import ApiKeyRow, UserRow
from opensloth.database import db_now
from opensloth.errors import Conflict


def in_use() -> tuple[ColumnElement[bool], ...]:
    """The conditions on a key that has neither ended nor been revoked."""
    return ApiKeyRow.revoked_at.is_(None), or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > db_now())


def admin_keys(session: Session) -> list[Any]:
    """`id` and `owner` of each key with which an admin can do everything."""
    query = select(ApiKeyRow.id, ApiKeyRow.owner, ApiKeyRow.scopes).join(UserRow, UserRow.name == ApiKeyRow.owner)
    are_admin = ApiKeyRow.role == "admin", UserRow.role == "admin", UserRow.disabled_at.is_(None)
    return [key for key in session.execute(query.where(*in_use(), *are_admin)) if key.scopes is None]


def require_another_admin(session: Session, *, key_id: str | None = None, user: str | None = None) -> None:
    """Raise Conflict if no admin could get in without this key, or without this user's keys.

    Call it under the scheduler's lock: of two admins who shut each other out at once one has to stay.
    """
    keys = admin_keys(session)
    lost = [key for key in keys if key.id == key_id or key.owner == user]
    if lost and len(lost) == len(keys):
        whom = f"{user} is the last admin with a key in use" if user else "this is the last key of an admin"
        raise Conflict(whom, hint="make another admin with a key of their own first", code="last_admin")
