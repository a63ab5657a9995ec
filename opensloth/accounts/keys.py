"""API keys: made once, kept as hashes, checked on every request."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from opensloth.accounts.rows import ApiKeyRow
from opensloth.database import Database, db_now
from opensloth.errors import FieldError, InvalidInput, NotAllowed, NotAuthenticated, NotFound

Role = Literal["admin", "member"]
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True)
class Caller:
    """Who sends a request."""

    owner: str
    role: Role

    @property
    def is_admin(self) -> bool:
        """Whether the caller may do everything."""
        return self.role == "admin"

    def require_admin(self, what: str) -> None:
        """Raise NotAllowed unless the caller is an admin; `what` completes 'only an admin may ...'."""
        if not self.is_admin:
            raise NotAllowed(f"only an admin may {what}", hint="ask for it with an admin's key")


class KeyService:
    """Makes, lists, revokes and checks keys."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def authenticate(self, key: str | None) -> Caller:
        """The caller behind a bearer key; raises NotAuthenticated."""
        if not key:
            raise NotAuthenticated(
                "no API key was sent",
                hint="send `Authorization: Bearer KEY`; `opensloth key` shows the key of this machine",
            )
        with self._db.read() as session:
            row = session.scalar(
                select(ApiKeyRow).where(
                    ApiKeyRow.sha256 == _sha256(key),
                    ApiKeyRow.revoked_at.is_(None),
                    or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > db_now()),
                )
            )
        if row is None:
            raise NotAuthenticated("this API key is unknown, revoked or expired", hint="ask an admin for a new key")
        return Caller(owner=row.owner, role="admin" if row.role == "admin" else "member")

    def create(self, owner: str, role: Role = "member", expires_in_s: float | None = None) -> tuple[ApiKeyRow, str]:
        """A new key; the second value is the key itself, which is not kept."""
        if not _OWNER.fullmatch(owner):
            raise InvalidInput(
                "the owner's name is not usable",
                fields=[FieldError("owner", "use 1 to 64 letters, digits, dots, dashes, underscores or @")],
            )
        with self._db.write() as session:
            return _add(session, owner, role, expires_in_s)

    def list(self) -> list[ApiKeyRow]:
        """Every key, newest first."""
        with self._db.read() as session:
            return list(session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.created_at.desc(), ApiKeyRow.id)))

    def revoke(self, key_id: str) -> ApiKeyRow:
        """End a key now; ending it twice is the same as once."""
        with self._db.write() as session:
            session.execute(
                update(ApiKeyRow)
                .where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None))
                .values(revoked_at=db_now())
            )
            row = session.get(ApiKeyRow, key_id, populate_existing=True)
            if row is None:
                raise NotFound(f"there is no key {key_id!r}")
            return row

    def bootstrap(self) -> str | None:
        """The first admin key, if there is no usable admin key yet; else None."""
        with self._db.scheduler_lock() as session:  # two that start at once must not both find none
            exists = session.scalar(
                select(ApiKeyRow.id).where(ApiKeyRow.role == "admin", ApiKeyRow.revoked_at.is_(None)).limit(1)
            )
            return None if exists else _add(session, "admin", "admin", None)[1]


def _add(session: Session, owner: str, role: Role, expires_in_s: float | None) -> tuple[ApiKeyRow, str]:
    key = f"sk-sloth-{secrets.token_urlsafe(32)}"
    now = session.scalar(select(db_now())) or 0.0
    row = ApiKeyRow(
        id=f"key-{secrets.token_hex(8)}",
        owner=owner,
        role=role,
        prefix=key[:14],
        sha256=_sha256(key),
        created_at=now,
        expires_at=None if expires_in_s is None else now + expires_in_s,
    )
    session.add(row)
    session.flush()
    return row, key


def _sha256(key: str) -> str:
    # A key has 256 random bits, so a plain hash is enough: there is no dictionary to try.
    return hashlib.sha256(key.encode()).hexdigest()
