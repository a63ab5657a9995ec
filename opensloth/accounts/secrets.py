"""Secrets of people (hub tokens and the like): written once, encrypted at rest, read by the processes of jobs alone."""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets as random
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import Caller
from opensloth.accounts.rows import DEFAULT_TEAM, SecretRow, UserRow
from opensloth.accounts.users import require_team
from opensloth.database import Database, now_of
from opensloth.errors import FieldError, InvalidInput, NotAllowed, NotFound, OpenSlothError
from opensloth.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_BYTES, _NONCE_BYTES = 32, 12
TEAM_HOLDER = "team:"
"""Before the name of a team that holds a secret; no user's name has a colon."""
MOST_CHARACTERS = 8192


class SecretUnreadable(OpenSlothError):
    """The key that encrypted a secret is not the one that this process has."""

    code = "secret_unreadable"


class SecretService:
    """Keeps secrets by owner and name; nothing here gives a value to a client."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings

    def put(self, name: str, value: str, caller: Caller, team: str | None = None) -> tuple[SecretRow, bool]:
        """Store a secret of the caller's or of a team, replacing one of the same name; the second value: it is new."""
        if not _NAME.fullmatch(name):
            message = "use 1 to 64 letters, digits, dots, dashes and underscores"
            raise InvalidInput("the secret's name is not usable", fields=[FieldError("name", message)])
        if not value.strip() or len(value) > MOST_CHARACTERS:
            message = f"1 to {MOST_CHARACTERS} characters, not all of them spaces"
            raise InvalidInput("the secret's value is not usable", fields=[FieldError("value", message)])
        owner = _holder(caller, team)
        sealed = self.seal(owner, name, value.strip())
        with self._db.write() as session:
            if team is not None:
                require_team(session, team)
            now = now_of(session)
            row = session.get(SecretRow, (owner, name), with_for_update=True)
            is_new = row is None
            if row is None:
                row = SecretRow(owner=owner, name=name, sealed=sealed, created_at=now, updated_at=now)
                session.add(row)
            row.sealed, row.updated_at = sealed, now
            record(session, caller, "secret.set", name, team=team)
        return row, is_new

    def list(self, caller: Caller) -> list[SecretRow]:
        """The caller's secrets and those of the team, by name."""
        owners = [caller.owner, TEAM_HOLDER + caller.team]
        with self._db.read() as session:
            query = select(SecretRow).where(SecretRow.owner.in_(owners)).order_by(SecretRow.name, SecretRow.owner)
            return list(session.scalars(query))

    def delete(self, name: str, caller: Caller, team: str | None = None) -> None:
        """Forget a secret of the caller's or of a team now; a job that still needs it fails."""
        owner = _holder(caller, team)
        with self._db.write() as session:
            gone = session.execute(
                delete(SecretRow).where(SecretRow.owner == owner, SecretRow.name == name).returning(SecretRow.name)
            ).one_or_none()
            record(session, caller, "secret.delete", name, team=team)
            if gone is None:
                whom = "you have" if team is None else f"the team {team!r} has"
                raise NotFound(f"{whom} no secret {name!r}", hint="`opensloth secrets list` shows them")

    @staticmethod
    def require(session: Session, owner: str, name: str, field: str) -> None:
        """Raise InvalidInput naming `field` unless the owner or the owner's team has a secret of this name."""
        if _of(session, owner, name) is None:
            raise InvalidInput(
                "a secret cannot be found",
                code="secret_not_found",
                hint=f"`opensloth secrets set {name}` stores one",
                fields=[FieldError(field, f"you have no secret {name!r}, nor has your team")],
            )

    def value(self, owner: str, name: str) -> str:
        """The secret itself, the owner's own or else the team's, for the process of a job.

        Raises NotFound, or SecretUnreadable.
        """
        with self._db.read() as session:
            row = _of(session, owner, name)
        if row is None:
            raise NotFound(f"the secret {name!r} was deleted", code="input_deleted")
        return self.unseal(row.owner, name, row.sealed)

    def seal(self, owner: str, name: str, value: str) -> str:
        """AES-256-GCM over the value; owner and name are bound to it, so that rows cannot be swapped."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self._key(make=True)).encrypt(nonce, value.encode(), _bound(owner, name))
        return base64.b64encode(nonce + sealed).decode()

    def unseal(self, owner: str, name: str, sealed: str) -> str:
        """The value that `seal` was given for the same owner and name; raises SecretUnreadable."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        blob = base64.b64decode(sealed)
        try:
            plain = AESGCM(self._key()).decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], _bound(owner, name))
        except InvalidTag:
            raise SecretUnreadable(
                f"the secret {name!r} was encrypted with another key",
                hint="give API and workers the same OPENSLOTH_SECRET_KEY, or store the secret again",
            ) from None
        return plain.decode()

    def _key(self, *, make: bool = False) -> bytes:
        """The key of OPENSLOTH_SECRET_KEY, else that of this machine's key file, which the first secret makes."""
        if self._settings.secret_key is not None:
            return _decoded(self._settings.secret_key, "OPENSLOTH_SECRET_KEY")
        path = self._settings.secret_key_file
        if not path.exists():
            if not make:
                raise SecretUnreadable(
                    "this host has no key for secrets", hint="give API and workers the same OPENSLOTH_SECRET_KEY"
                )
            _make_key_file(path)
        return _decoded(path.read_text(), str(path))


def _holder(caller: Caller, team: str | None) -> str:
    """Under whom a secret is kept. Raises NotAllowed for another's team, whether there is such a team or not."""
    if team is None:
        return caller.owner
    if team != caller.team and not caller.is_admin:
        raise NotAllowed("only an admin may keep secrets of another team", hint=f"your team is {caller.team}")
    return TEAM_HOLDER + team


def _of(session: Session, owner: str, name: str) -> SecretRow | None:
    """The owner's secret of this name, else that of the owner's team."""
    own = session.get(SecretRow, (owner, name))
    if own is not None:
        return own
    team = session.scalar(select(UserRow.team).where(UserRow.name == owner))
    return session.get(SecretRow, (TEAM_HOLDER + (team or DEFAULT_TEAM), name))


def _make_key_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}-{random.token_hex(4)}")
    descriptor = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link does not replace: of two processes that come first, one key stays.
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink()


def _decoded(text: str, where: str) -> bytes:
    try:
        key = base64.urlsafe_b64decode(text.strip())
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != _KEY_BYTES:
        raise SecretUnreadable(f"{where} is not a key: {_KEY_BYTES} bytes in URL-safe base64 are one")
    return key


def _bound(owner: str, name: str) -> bytes:
    return f"{owner}\0{name}".encode()
