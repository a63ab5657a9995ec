"""API keys: made once, kept as hashes, checked on every request."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, bindparam, func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from opensloth.accounts.admins import admin_keys, in_use, require_another_admin
from opensloth.accounts.audit import record
from opensloth.accounts.callers import HOST, ROLES, Caller, Role
from opensloth.accounts.rows import DEFAULT_TEAM, ApiKeyRow, TeamRow, UserRow
from opensloth.accounts.scopes import checked_scopes, within
from opensloth.accounts.users import add_user
from opensloth.database import Database, db_now, now_of
from opensloth.errors import Conflict, FieldError, NotAllowed, NotAuthenticated, NotFound, Unavailable

__all__ = ["Caller", "KeyService", "Role"]

log = logging.getLogger(__name__)

USED_EVERY_S = 3600.0
"""A key's last use is noted at most so often, so that reading does not mean writing."""
Made = tuple[ApiKeyRow, str]
"""A key's row and the key itself, which is not kept."""


@dataclass(frozen=True)
class NewKey:
    """What a key shall be; `expires_in_s` counts from now."""

    owner: str
    role: Role
    scopes: Sequence[str] | None = None
    expires_in_s: float | None = None
    requests_per_minute: int | None = None


class KeyService:
    """Makes, lists, rotates, revokes and checks keys."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def authenticate(self, key: str | None) -> Caller:
        """The caller behind a bearer key; raises NotAuthenticated."""
        if not key:
            raise NotAuthenticated(
                "no API key was sent",
                hint="send `Authorization: Bearer KEY`; `opensloth key` shows the key of this machine",
            )
        row = self._accepted(_BY_HASH, _sha256(key))
        if row.last_used_at is None or row.now - row.last_used_at > USED_EVERY_S:
            self._note_use(row.id)
        return _caller(row)

    def renewed(self, caller: Caller) -> Caller:
        """The caller as of now; raises NotAuthenticated if the key has ended since or the user was disabled."""
        return caller if caller.key_id is None else _caller(self._accepted(_BY_ID, caller.key_id))

    def create(
        self,
        owner: str,
        role: Role = "member",
        expires_in_s: float | None = None,
        *,
        scopes: Sequence[str] | None = None,
        requests_per_minute: int | None = None,
        by: Caller = HOST,
    ) -> Made:
        """A new key. Who is not known becomes a user of the team `default`, with the key's role.

        Others than admins make keys for themselves that can do no more, and last no longer, than the one they use.
        Raises InvalidInput, NotAllowed, and Conflict for a role beyond the user's.
        """
        if requests_per_minute is not None:
            by.require_admin("say how many requests a key may send")
        new = NewKey(owner, role, checked_scopes(scopes), expires_in_s, requests_per_minute)
        with self._db.write() as session:
            _require_within(session, new, by)
            user = session.get(UserRow, owner)
            if user is None:
                user = add_user(session, by, owner, role, DEFAULT_TEAM)
            if least(role, user.role) != role:
                raise Conflict(
                    f"{owner} is a {user.role}; a key cannot be more than its user",
                    hint=f"`opensloth users set {owner} --role {role}` first, or make a key of the role {user.role}",
                    code="role_too_high",
                )
            return _add(session, new, by, "key.create")

    def list(self, caller: Caller = HOST) -> list[ApiKeyRow]:
        """Every key for an admin, one's own for others; newest first."""
        query = select(ApiKeyRow).order_by(ApiKeyRow.created_at.desc(), ApiKeyRow.id)
        if not caller.is_admin:
            query = query.where(ApiKeyRow.owner == caller.owner)
        with self._db.read() as session:
            return list(session.scalars(query))

    def get(self, key_id: str | None) -> ApiKeyRow | None:
        """The row of a key, if there is one."""
        with self._db.read() as session:
            return session.get(ApiKeyRow, key_id) if key_id else None

    def rotate(
        self, key_id: str, by: Caller = HOST, *, overlap_s: float = 0.0, expires_in_s: float | None = None
    ) -> Made:
        """A new key in place of one that is in use, which ends after `overlap_s` at the latest.

        The new one has the same owner, role, scopes and end; an admin may give it another end.
        """
        with self._db.write() as session:
            old = _found(session, key_id, by)
            now = now_of(session)
            if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
                raise Conflict(f"the key {key_id} has ended", hint="make a new one", code="key_ended")
            if expires_in_s is not None:
                by.require_admin("change when a key ends")
            elif old.expires_at is not None:
                expires_in_s = old.expires_at - now
            new = NewKey(old.owner, least(old.role, "admin"), old.scopes, expires_in_s, old.requests_per_minute)
            if key_id != by.key_id:
                _require_within(session, new, by)
            made = _add(session, new, by, "key.rotate", replaces=key_id)
            if overlap_s > 0:
                old.expires_at = min(now + overlap_s, old.expires_at or float("inf"))
            else:
                old.revoked_at = now
            return made

    def limit(self, key_id: str, requests_per_minute: int | None, by: Caller = HOST) -> ApiKeyRow:
        """Say how many requests a key may send; None: what holds for its user. For admins."""
        by.require_admin("say how many requests a key may send")
        with self._db.write() as session:
            row = _found(session, key_id, by)
            row.requests_per_minute = requests_per_minute
            record(session, by, "key.change", key_id, requests_per_minute=requests_per_minute)
            return row

    def revoke(self, key_id: str, by: Caller = HOST) -> ApiKeyRow:
        """End a key now; ending it twice is the same as once. Raises Conflict for the last key of the admins."""
        with self._db.scheduler_lock() as session:
            row = _found(session, key_id, by)
            if row.revoked_at is None:
                require_another_admin(session, key_id=key_id)
                row.revoked_at = now_of(session)
                record(session, by, "key.revoke", key_id, owner=row.owner)
            return row

    def bootstrap(self) -> str | None:
        """The first admin key, if there is no usable admin key yet; else None."""
        with self._db.scheduler_lock() as session:  # two that start at once must not both find none
            return None if admin_keys(session) else _admin_key(session)

    def further_admin_key(self) -> str:
        """One more admin key of the user `admin`, who is made an admin again if that was taken away."""
        with self._db.scheduler_lock() as session:
            return _admin_key(session)

    def _accepted(self, query: Select[Any], value: str) -> Any:
        """The one key that `query` finds by `value`."""
        with self._db.read() as session:
            row = session.execute(query, {"value": value}).one_or_none()
        if row is None:
            raise NotAuthenticated(
                "this API key is unknown, revoked or expired, or its user is disabled",
                hint="ask an admin for a new key",
            )
        return row

    def _note_use(self, key_id: str) -> None:
        try:
            with self._db.write() as session:
                session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(last_used_at=db_now()))
        except Unavailable as error:
            # A database that takes no writes at the moment must not keep anybody from reading.
            log.info("the use of the key %s was not noted: %s", key_id, error)


def _accepted_where(column: InstrumentedAttribute[str]) -> Select[Any]:
    """The key that is in use and has a certain value in `column`, with its user's team and role, and its limit."""
    columns = (ApiKeyRow.id, ApiKeyRow.owner, ApiKeyRow.role, ApiKeyRow.scopes, ApiKeyRow.last_used_at)
    limits = (ApiKeyRow.requests_per_minute, UserRow.requests_per_minute, TeamRow.requests_per_minute)
    limit = func.coalesce(*limits).label("requests_per_minute")
    return (
        select(*columns, UserRow.team, UserRow.role.label("user_role"), limit, db_now().label("now"))
        .join(UserRow, UserRow.name == ApiKeyRow.owner)
        .join(TeamRow, TeamRow.name == UserRow.team)
        .where(column == bindparam("value"), UserRow.disabled_at.is_(None), *in_use())
    )


# Made once: every request asks the first, and to put it together costs as much as to ask it.
_BY_HASH, _BY_ID = _accepted_where(ApiKeyRow.sha256), _accepted_where(ApiKeyRow.id)


def _caller(row: Any) -> Caller:
    scopes = None if row.scopes is None else frozenset(map(str, row.scopes))
    return Caller(row.owner, least(row.role, row.user_role), row.team, scopes, row.id, row.requests_per_minute)


def least(one: str, other: str) -> Role:
    """The lesser of two roles; one that is not known counts as the least."""
    return next((role for role in ROLES if role in (one, other)), ROLES[0])


def _require_within(session: Session, new: NewKey, by: Caller) -> None:
    """Raise unless the key `by` uses may make this one: nobody gets more from a key than it has."""
    if not within(new.scopes, by.scopes):
        message = f"the key in use is for {', '.join(sorted(by.scopes or ()))} alone; name scopes within these"
        raise NotAllowed("the new key would do more than the one in use", fields=[FieldError("scopes", message)])
    if by.is_admin:
        return
    if new.owner != by.owner:
        raise NotAllowed("only an admin may make keys for others", hint=f"you are {by.owner}")
    if least(new.role, by.role) != new.role:
        message = f"the key in use has the role {by.role}; make one of that role"
        raise NotAllowed("the new key would do more than the one in use", fields=[FieldError("role", message)])
    end = session.scalar(select(ApiKeyRow.expires_at - db_now()).where(ApiKeyRow.id == by.key_id))
    if end is not None and (new.expires_in_s is None or new.expires_in_s > end):
        message = f"the key in use ends in {int(end)} s; the new one has to end by then"
        raise NotAllowed(
            "the new key would last longer than the one in use", fields=[FieldError("expires_in_s", message)]
        )


def _found(session: Session, key_id: str, by: Caller) -> ApiKeyRow:
    row = session.get(ApiKeyRow, key_id, with_for_update=True)
    if row is None or not (by.is_admin or row.owner == by.owner):
        raise NotFound(f"there is no key {key_id!r}", hint="`opensloth key list` lists them")
    return row


def _admin_key(session: Session) -> str:
    user = session.get(UserRow, "admin") or add_user(session, HOST, "admin", "admin", DEFAULT_TEAM)
    user.role, user.disabled_at = "admin", None
    return _add(session, NewKey("admin", "admin"), HOST, "key.create")[1]


def _add(session: Session, new: NewKey, by: Caller, action: str, **data: str) -> Made:
    key = f"sk-sloth-{secrets.token_urlsafe(32)}"
    now = now_of(session)
    row = ApiKeyRow(
        id=f"key-{secrets.token_hex(8)}",
        owner=new.owner,
        role=new.role,
        scopes=None if new.scopes is None else list(new.scopes),
        prefix=key[:14],
        sha256=_sha256(key),
        created_at=now,
        expires_at=None if new.expires_in_s is None else now + new.expires_in_s,
        requests_per_minute=new.requests_per_minute,
    )
    session.add(row)
    session.flush()
    record(session, by, action, row.id, owner=new.owner, role=new.role, scopes=row.scopes, **data)
    return row, key


def _sha256(key: str) -> str:
    # A key has 256 random bits, so a plain hash is enough: there is no dictionary to try.
    return hashlib.sha256(key.encode()).hexdigest()
