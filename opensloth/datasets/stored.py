"""Stored files and what their checks found, as rows."""

from __future__ import annotations

from sqlalchemy import or_
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller, require_visible
from opensloth.database import db_now, insert_of, now_of
from opensloth.datasets.report import CHECK_VERSION, OLDEST_CHECK, FileCheck
from opensloth.datasets.rows import FileCheckRow, FileRow

NOT_EXPIRED = or_(FileRow.expires_at.is_(None), FileRow.expires_at > db_now())


def found_file(session: Session, file_id: str, caller: Caller, *, lock: bool = False) -> FileRow:
    """The row of a file that the caller sees; raises NotFound."""
    row = session.get(FileRow, file_id, with_for_update=lock)
    if row is not None and is_expired(session, row):
        row = None
    return require_visible(row, caller, f"file {file_id!r}", "`opensloth files list` shows them", param="id")


def is_expired(session: Session, row: FileRow) -> bool:
    """Whether a file's time is over; it is there then only for jobs that began with it."""
    return row.expires_at is not None and row.expires_at <= now_of(session)


def stored_check(session: Session, sha256: str, oldest: int = OLDEST_CHECK) -> FileCheck | None:
    """What the check of this content found; None if it was made by rules before those of version `oldest`."""
    row = session.get(FileCheckRow, sha256)
    usable = row is not None and oldest <= row.version <= CHECK_VERSION
    return FileCheck.model_validate(row.check) if row is not None and usable else None


def keep_check(session: Session, sha256: str, check: FileCheck, now: float) -> None:
    """Remember what the check of this content found at `now`, in seconds since 1970."""
    values = {"version": CHECK_VERSION, "check": check.model_dump(mode="json"), "created_at": now}
    # Two uploads of one content may end at the same moment.
    statement = insert_of(session)(FileCheckRow).values(sha256=sha256, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[FileCheckRow.sha256], set_=values))
