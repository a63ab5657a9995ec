"""Making a backup: the database as it is at one moment, then the storage, while jobs run."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import make_url

from opensloth import __version__
from opensloth.backup.archive import Writer, writer_for
from opensloth.backup.rows import SUFFIX, dump, snapshot
from opensloth.database import Database
from opensloth.errors import Conflict, NotFound
from opensloth.schema import database_revision, require_schema
from opensloth.settings import Settings
from opensloth.storage import Storage

FORMAT = 1
ABOUT, LISTING, ROWS, STORED = "backup.json", "storage.json", "database/", "storage/"


@dataclass(frozen=True)
class About:
    """What a backup says of itself."""

    format: int
    release: str
    revision: str
    made_at: str
    database: str
    tables: dict[str, int]
    with_storage: bool
    secret_key: str | None
    """What tells the key of its sealed secrets apart from others; not the key."""


@dataclass(frozen=True)
class Made:
    """What was written."""

    about: About
    stored_files: int
    stored_bytes: int
    missing: int
    """Files that went while they were copied."""


def make_backup(settings: Settings, target: str, *, with_storage: bool) -> Made:
    """Write a backup to a folder, a .tar file or a URL.

    Raises Conflict where something is there, NotFound where no database is, Unavailable while database or storage are
    away, WrongSchema.
    """
    database = Database(settings.database)
    require_there(database)
    storage = Storage(settings.storage)
    require_outside(target, storage)
    require_schema(database)
    writer = writer_for(target)
    home = settings.home.expanduser()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="backup-", dir=home) as scratch:
        about = _database(database, Path(scratch), writer, settings, with_storage=with_storage)
        # After the database: all that its rows name was there by then.
        listing = storage.list_all()
        copied, missing = _storage(storage, listing, Path(scratch), writer) if with_storage else (0, 0)
        _add(writer, Path(scratch), LISTING, listing)
        _add(writer, Path(scratch), ABOUT, asdict(about))
        writer.finish()
    database.engine.dispose()
    return Made(about, len(listing) - missing, copied if with_storage else sum(listing.values()), missing)


def require_there(database: Database) -> None:
    """Raise NotFound for a file of SQLite that is none: opening it would make one."""
    file = Path(make_url(database.url).database or "")
    if database.is_sqlite and not file.is_file():
        raise NotFound(f"there is no database {file}", hint="name the box's home with --home or OPENSLOTH_HOME")


def require_outside(target: str, storage: Storage) -> None:
    """Raise Conflict for a backup inside the storage, which would hold itself."""
    folder = storage.folder
    inside = folder is not None and "://" not in target and Path(target).expanduser().absolute().is_relative_to(folder)
    if inside or (folder is None and f"{target}/".startswith(f"{storage.url.rstrip('/')}/")):
        raise Conflict(f"{target} is inside the storage", hint="name a place elsewhere, best on another disk")


def key_fingerprint(settings: Settings) -> str | None:
    """What tells the key for secrets apart; None where there is none."""
    path = settings.secret_key_file
    key = settings.secret_key or (path.read_text() if path.exists() else "")
    return hashlib.sha256(b"opensloth backup " + key.strip().encode()).hexdigest()[:16] if key.strip() else None


def _database(database: Database, scratch: Path, writer: Writer, settings: Settings, *, with_storage: bool) -> About:
    folder = scratch / "rows"
    folder.mkdir()
    with snapshot(database) as connection:
        revision = database_revision(connection)
        tables = dump(connection, folder)
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        writer.add(path, f"{ROWS}{path.name}")
    return About(
        format=FORMAT,
        release=__version__,
        revision=revision or "",
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        database="sqlite" if database.is_sqlite else "postgresql",
        tables=tables,
        with_storage=with_storage,
        secret_key=key_fingerprint(settings),
    )


def _storage(storage: Storage, listing: dict[str, int], scratch: Path, writer: Writer) -> tuple[int, int]:
    """Copy every file; returns the bytes, and how many files were gone when their turn came."""
    copied = missing = 0
    for key in listing:
        local = scratch / "file"
        try:
            copied += storage.get_file(key, local)[0]
        except FileNotFoundError:
            missing += 1
            continue
        writer.add(local, f"{STORED}{key}")
    return copied, missing


def _add(writer: Writer, scratch: Path, name: str, content: object) -> None:
    local = scratch / name
    local.write_text(json.dumps(content, indent=1))
    writer.add(local, name)
