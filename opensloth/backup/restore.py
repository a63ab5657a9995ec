"""Putting a backup back: checked first, made aside, then in one step in the place of what was there."""

from __future__ import annotations

import fcntl
import json
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import func, inspect, select, update
from sqlalchemy.orm import Session

from opensloth.backup.archive import Reader, reader_for
from opensloth.backup.errors import BackupUnusable, BoxInUse
from opensloth.backup.make import ABOUT, FORMAT, LISTING, ROWS, About, key_fingerprint
from opensloth.backup.stored import put_back
from opensloth.backup.switch import Aside
from opensloth.database import Database, db_now, now_of
from opensloth.datasets.rows import FileRow
from opensloth.devices.rows import HostRow
from opensloth.events.publisher import redis_client
from opensloth.jobs.rows import CheckpointRow, JobRow
from opensloth.jobs.states import LIVE, TERMINAL
from opensloth.schema import code_revision
from opensloth.settings import Settings
from opensloth.storage import Storage, StorageCorrupt

ALIVE_S = 60.0
"""A worker heard from this recently is taken to run."""
_OVER = [state.value for state in TERMINAL]


@dataclass(frozen=True)
class Restored:
    """What was put back; `remarks` are for the admin to read."""

    about: About
    stored_files: int
    kept: str | None
    """Where the database of before is, in words; None where there was none."""
    remarks: list[str]


def restore(settings: Settings, source: str, *, force: bool = False) -> Restored:
    """Replace the database by that of a backup, and store what the backup holds of the storage.

    Raises BackupUnusable for a backup that is damaged or of a newer release, BoxInUse where something would be
    overwritten or runs (unless `force`), Unavailable while database or storage are away. Nothing is changed then.
    """
    reader = reader_for(source)
    about = read_about(reader)
    home = settings.home.expanduser()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    live, storage = Database(settings.database), Storage(settings.storage)
    if not force:
        require_unused(live, settings)
    with tempfile.TemporaryDirectory(prefix="restore-", dir=home) as scratch, Aside(live).open() as aside:
        aside.migrate(about.revision)
        aside.fill(_rows(reader, Path(scratch) / "rows"), about.tables)
        aside.migrate("head")
        storage.mark()
        count, left_out = put_back(reader, storage, Path(scratch))
        _settle(Database(aside.url), storage)
        kept = aside.switch()
    live.engine.dispose()
    remarks = [f"{key} was not whole in the backup and is left out" for key in left_out]
    remarks += _remarks(reader, about, storage, settings) + _forget_streams(settings)
    return Restored(about, count, kept, remarks)


def _rows(reader: Reader, folder: Path) -> Path:
    folder.mkdir()
    for file in reader.files:
        name = file.name.removeprefix(ROWS)
        if file.name.startswith(ROWS) and "/" not in name:
            reader.get(file.name, folder / name)
    return folder


def read_about(reader: Reader) -> About:
    """What a backup says of itself; raises BackupUnusable for one that this release cannot put back."""
    try:
        said = json.loads(reader.read(ABOUT))
        about = About(**{field.name: said[field.name] for field in fields(About)})
    except (KeyError, ValueError, TypeError, FileNotFoundError) as error:
        raise BackupUnusable(f"this is no backup of OpenSloth: {error}") from error
    if about.format > FORMAT or about.revision > code_revision():
        raise BackupUnusable(
            f"the backup is of release {about.release} (revision {about.revision}), newer than this one "
            f"({code_revision()})",
            hint="install the release that made it",
        )
    return about


def require_unused(live: Database, settings: Settings) -> None:
    """Raise BoxInUse where the box runs or holds something."""
    hint = "stop it first, or say --force; what is there is kept beside"
    lock = settings.home.expanduser() / "up.lock"
    if lock.exists():
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BoxInUse(f"`opensloth up` runs on {lock.parent}", hint=hint) from None
    with live.read() as session:
        there = inspect(session.connection())
        if not there.has_table(JobRow.__tablename__):
            return
        now = now_of(session)
        # By name: the tables may be of an earlier release.
        running = session.execute(select(HostRow.id, HostRow.seen_at)).all()
        jobs = session.scalar(select(func.count(JobRow.id))) or 0
        files = session.scalar(select(func.count(FileRow.id))) or 0
    for host, seen_at in running:
        if (seen_at or 0.0) > now - ALIVE_S:
            raise BoxInUse(
                f"the worker of the host {host} runs: it was heard from {now - seen_at:.0f} s ago",
                hint=f"{hint}; one that was stopped counts as running for {ALIVE_S:.0f} s",
            )
    if jobs or files:
        raise BoxInUse(
            f"the database holds {jobs} jobs and {files} files", hint="say --force to replace it; it is kept beside"
        )


def _settle(database: Database, storage: Storage) -> None:
    """Running jobs belong to nobody: the first worker takes them back, and they go on from what is in storage."""
    with database.write() as session:
        live = [state.value for state in LIVE]
        session.execute(update(JobRow).where(JobRow.state.in_(live)).values(lease_until=db_now() - ALIVE_S))
        session.execute(update(HostRow).values(seen_at=0.0))
        for job_id in session.scalars(select(JobRow.id).where(JobRow.state.not_in(_OVER))).all():
            _announce_what_is_there(session, storage, job_id)
    database.engine.dispose()


def _announce_what_is_there(session: Session, storage: Storage, job_id: str) -> None:
    """A storage that went on after the backup has other checkpoints than its rows say."""
    rows = {row.key: row for row in session.scalars(select(CheckpointRow).where(CheckpointRow.job_id == job_id))}
    for key, row in rows.items():
        if _size(storage, key) is None:
            session.delete(row)
    session.flush()
    steps = {row.step for key, row in rows.items() if row in session}
    folder = f"jobs/{job_id}/checkpoints"
    for attempt in reversed(storage.list_keys(folder)):
        number = attempt.removeprefix("attempt-")
        for name in storage.list_keys(f"{folder}/{attempt}") if number.isdigit() else ():
            step = name.removeprefix("step-")
            size = _size(storage, f"{folder}/{attempt}/{name}") if step.isdigit() else None
            if size is None or int(step) in steps:
                continue
            steps.add(int(step))
            found: dict[str, Any] = {"job_id": job_id, "step": int(step), "attempt": int(number), "bytes": size}
            key = f"{folder}/{attempt}/{name}"
            session.add(CheckpointRow(**found, key=key, save_s=0.0, metrics={}, created_at=now_of(session)))
    session.flush()


def _size(storage: Storage, key: str) -> int | None:
    """Bytes of a complete tree; None for none."""
    try:
        files = storage.list_tree(key)
    except StorageCorrupt:
        return None
    return None if files is None else sum(file.bytes for file in files)


def _remarks(reader: Reader, about: About, storage: Storage, settings: Settings) -> list[str]:
    said: list[str] = []
    listed, there = json.loads(reader.read(LISTING)), storage.list_all()
    lost = sorted(key for key in listed if key.startswith(("files/", "models/")) and key not in there)
    if lost:
        said.append(f"{len(lost)} files of datasets and models are not in the storage, such as {lost[0]}")
    if about.secret_key not in (None, key_fingerprint(settings)):
        said.append(
            "the secrets in it were sealed with another key: give API and workers the OPENSLOTH_SECRET_KEY of then"
        )
    return said


def _forget_streams(settings: Settings) -> list[str]:
    """Live streams go on from numbers that the database does not know any more."""
    try:
        client = redis_client(settings.redis)
        for key in client.scan_iter("opensloth:events:*", count=1000):
            client.delete(key)
    except Exception as error:  # whatever its driver raises
        return [] if settings.redis_url is None else [f"old live streams may be in Redis still: {error}"]
    return []
