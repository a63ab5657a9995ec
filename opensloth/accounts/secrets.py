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

from opensloth.accounts.keys import Caller
from opensloth.accounts.rows import SecretRow
from opensloth.database import Database, db_now
from opensloth.errors import FieldError, InvalidInput, NotFound, OpenSlothError
from opensloth.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_BYTES, _NONCE_BYTES = 32, 12
MOST_CHARACTERS = 8192


class SecretUnreadable(OpenSlothError):
    """The key that encrypted a secret is not the one that this process has."""

    code = "secret_unreadable"


class SecretService:
    """Keeps secrets by owner and name; nothing here gives a value to a client."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings

    def put(self, name: str, value: str, caller: Caller) -> tuple[SecretRow, bool]:
        """Store a secret of the caller's, replacing one of the same name; the second value says whether it is new."""
        if not _NAME.fullmatch(name):
            message = "use 1 to 64 letters, digits, dots, dashes and underscores"
            raise InvalidInput("the secret's name is not usable", fields=[FieldError("name", message)])
        if not value.strip() or len(value) > MOST_CHARACTERS:
            message = f"1 to {MOST_CHARACTERS} characters, not all of them spaces"
            raise InvalidInput("the secret's value is not usable", fields=[FieldError("value", message)])
        sealed = self._seal(caller.owner, name, value.strip())
        with self._db.write() as session:
            now = session.scalar(select(db_now())) or 0.0
            row = session.get(SecretRow, (caller.owner, name), with_for_update=True)
            is_new = row is None
            if row is None:
                row = SecretRow(owner=caller.owner, name=name, sealed=sealed, created_at=now, updated_at=now)
                session.add(row)
            row.sealed, row.updated_at = sealed, now
        return row, is_new

    def list(self, caller: Caller) -> list[SecretRow]:
        """The caller's secrets by name."""
        with self._db.read() as session:
            query = select(SecretRow).where(SecretRow.owner == caller.owner).order_by(SecretRow.name)
            return list(session.scalars(query))

    def delete(self, name: str, caller: Caller) -> None:
        """Forget a secret now; a job that still needs it fails."""
        with self._db.write() as session:
            gone = session.execute(
                delete(SecretRow)
                .where(SecretRow.owner == caller.owner, SecretRow.name == name)
                .returning(SecretRow.name)
            ).one_or_none()
        if gone is None:
            raise NotFound(f"you have no secret {name!r}", hint="`opensloth secrets list` shows yours")

    @staticmethod
    def require(session: Session, owner: str, name: str, field: str) -> None:
        """Raise InvalidInput naming `field` unless the owner has a secret of this name."""
        if session.get(SecretRow, (owner, name)) is None:
            raise InvalidInput(
                "a secret cannot be found",
                code="secret_not_found",
                hint=f"`opensloth secrets set {name}` stores one",
                fields=[FieldError(field, f"you have no secret {name!r}")],
            )

    def value(self, owner: str, name: str) -> str:
        """The secret itself, for the process of a job. Raises NotFound, or SecretUnreadable."""
        with self._db.read() as session:
            row = session.get(SecretRow, (owner, name))
        if row is None:
            raise NotFound(f"the secret {name!r} was deleted", code="input_deleted")
        return self._open(owner, name, row.sealed)

    def _seal(self, owner: str, name: str, value: str) -> str:
        """AES-256-GCM over the value; owner and name are bound to it, so that rows cannot be swapped."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self._key(make=True)).encrypt(nonce, value.encode(), _bound(owner, name))
        return base64.b64encode(nonce + sealed).decode()

    def _open(self, owner: str, name: str, sealed: str) -> str:
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
