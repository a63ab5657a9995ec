"""Uploaded files: stored whole or not at all, checked once per content, and deleted when nobody needs them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import HOST, Caller, visible_to
from opensloth.database import Database, db_now, now_of
from opensloth.datasets.purposes import PURPOSE, require_purpose
from opensloth.datasets.report import CHECK_VERSION, FileCheck
from opensloth.datasets.rows import FileCheckRow, FileRow
from opensloth.datasets.stored import NOT_EXPIRED, found_file, is_expired, keep_check, stored_check
from opensloth.datasets.upload import Spool, disk_errors
from opensloth.datasets.views import FileView
from opensloth.errors import Conflict, FieldError, InvalidInput
from opensloth.settings import Settings
from opensloth.storage import Storage
from opensloth.storage.deletions import Deletions
from opensloth.storage.space import require_room

Order = Literal["asc", "desc"]
FORM_BYTES = 4096
"""What a form may add to the file in it."""
UserOfFile = Callable[[Session, str], str | None]
Quota = Callable[[Session, Caller, int], None]
"""Raises QuotaExceeded where the caller may not store so many bytes more."""
Also = Callable[[Session, FileRow], None]
"""Done in the transaction that keeps a file."""


@dataclass(frozen=True)
class Origin:
    """Where a fetched file comes from: a dataset of the hub without its revision, and the commit."""

    source: str
    commit: str


class FileService:
    """Stores, lists, checks and deletes files; `user_of` finds a job that is not over and needs a file."""

    def __init__(
        self, database: Database, storage: Storage, settings: Settings, user_of: UserOfFile, quota: Quota | None = None
    ) -> None:
        self._db = database
        self._require_quota: Quota = quota or (lambda session, caller, more: None)
        self._storage = storage
        self._settings = settings
        self._user_of = user_of
        self._deletions = Deletions(database, storage)

    # Uploading

    def spool(self, filename: str) -> Spool:
        """Begin an upload: write to it, give it to `store`, and discard it whatever happens.

        Raises InsufficientStorage while a disk is short; so does writing to it.
        """
        settings = self._settings
        self.require_room()
        folder = self._storage.scratch(settings.home.expanduser() / "uploads")
        return Spool(folder, filename, settings.max_upload_bytes, settings.max_line_bytes, self.require_room)

    def require_room(self) -> None:
        """Raise InsufficientStorage while a disk is short."""
        require_room(self._storage, self._settings.home, self._settings.min_free_bytes)

    def admit(self, caller: Caller, announced: int) -> None:
        """Raise QuotaExceeded before an upload of about so many bytes that could not be kept."""
        with self._db.read() as session:
            self._require_quota(session, caller, max(0, announced - FORM_BYTES))

    def store(
        self,
        spool: Spool,
        purpose: str,
        caller: Caller,
        origin: Origin | None = None,
        *,
        keep_s: int | None = None,
        also: Also | None = None,
    ) -> FileView:
        """Keep a spooled file, for `keep_s` seconds if set. Raises InvalidDataset, TooLarge, InvalidInput.

        `also` is done in the same transaction. Whatever is raised, nothing is kept then.
        """
        require_purpose(purpose)
        sha256 = spool.close()
        with self._db.read() as session:
            known = stored_check(session, sha256, oldest=CHECK_VERSION)
        check = known or spool.check()
        row = FileRow(
            id=f"file-{secrets.token_hex(12)}",
            owner=caller.owner,
            team=caller.team,
            filename=spool.filename,
            purpose=purpose,
            bytes=spool.bytes,
            sha256=sha256,
            container=check.container,
            source=origin.source if origin else None,
            commit=origin.commit if origin else None,
        )
        with disk_errors():
            self._storage.put_file(spool.path, row.storage_key)
        try:
            with self._db.write() as session:
                if also is not None:
                    also(session, row)
                self._require_quota(session, caller, row.bytes)
                row.created_at = now_of(session)
                row.expires_at = None if keep_s is None else row.created_at + keep_s
                session.add(row)
                keep_check(session, sha256, check, row.created_at)
                record(session, caller, "file.upload", row.id, filename=row.filename, bytes=row.bytes)
        except BaseException:
            self._storage.delete(f"files/{row.id}")
            raise
        return FileView.of(row, check)

    def create(
        self,
        filename: str,
        content: Iterable[bytes],
        caller: Caller,
        purpose: str = PURPOSE,
        origin: Origin | None = None,
    ) -> FileView:
        """Store the file that `content` gives piece by piece."""
        spool = self.spool(filename)
        try:
            for piece in content:
                spool.write(piece)
            return self.store(spool, purpose, caller, origin)
        finally:
            spool.discard()

    # Reading

    def get(self, file_id: str, caller: Caller) -> FileView:
        """One file; raises NotFound."""
        with self._db.read() as session:
            row = found_file(session, file_id, caller)
            return FileView.of(row, stored_check(session, row.sha256))

    def view(self, session: Session, file_id: str) -> FileView | None:
        """One file, whoever asks; None if it is gone."""
        row = session.get(FileRow, file_id)
        return None if row is None or is_expired(session, row) else FileView.of(row, stored_check(session, row.sha256))

    def row(self, file_id: str, caller: Caller) -> FileRow:
        """The stored row with hash and storage key; raises NotFound."""
        with self._db.read() as session:
            return found_file(session, file_id, caller)

    def check(self, file_id: str, caller: Caller) -> FileCheck | None:
        """What the check found; None if it was made by an older release."""
        with self._db.read() as session:
            return stored_check(session, found_file(session, file_id, caller).sha256)

    def list(
        self, caller: Caller, *, limit: int, after: str | None = None, purpose: str | None = None, order: Order = "desc"
    ) -> tuple[list[FileView], bool]:
        """Files that the caller sees, newest first unless `order` is `asc`, and whether more follow."""
        place = tuple_(FileRow.created_at, FileRow.id)
        query = select(FileRow, FileCheckRow.check).outerjoin(FileCheckRow, FileCheckRow.sha256 == FileRow.sha256)
        query = query.where(visible_to(caller, FileRow.team), NOT_EXPIRED)
        if purpose is not None:
            query = query.where(FileRow.purpose == purpose)
        with self._db.read() as session:
            if after is not None:
                last = session.get(FileRow, after)
                if last is None or not caller.can_see(last.team):
                    raise InvalidInput(
                        "the page cannot be found", fields=[FieldError("after", f"there is no file {after!r}")]
                    )
                here = tuple_(last.created_at, last.id)
                query = query.where(place < here if order == "desc" else place > here)
            columns = [FileRow.created_at, FileRow.id]
            query = query.order_by(*(column.desc() if order == "desc" else column.asc() for column in columns))
            rows = session.execute(query.limit(limit + 1)).all()
            views = [
                FileView.of(row, FileCheck.model_validate(check) if check else None) for row, check in rows[:limit]
            ]
        return views, len(rows) > limit

    # Deleting

    def delete(self, file_id: str, caller: Caller) -> None:
        """Remove a file; raises NotFound, NotAllowed, and Conflict while a job that is not over needs it."""
        with self._db.write() as session:
            row = found_file(session, file_id, caller, lock=True)
            caller.require_change(row.owner, f"the file {file_id}")
            user = self._user_of(session, file_id)
            if user is not None:
                raise Conflict(
                    f"the job {user} needs the file {file_id}",
                    hint="cancel that job or wait for its end",
                    code="in_use",
                )
            self._remove(session, row, caller)

    def expire(self) -> int:
        """Delete the files whose time is over, but none that a job still needs; returns how many went."""
        gone = 0
        with self._db.read() as session:
            ids = session.scalars(select(FileRow.id).where(FileRow.expires_at <= db_now())).all()
        for file_id in ids:
            with self._db.write() as session:
                row = session.get(FileRow, file_id, with_for_update=True)
                if row is not None and self._user_of(session, file_id) is None:
                    self._remove(session, row, HOST, expired=True)
                    gone += 1
        return gone

    def _remove(self, session: Session, row: FileRow, caller: Caller, **why: bool) -> None:
        session.delete(row)
        record(session, caller, "file.delete", row.id, owner=row.owner, filename=row.filename, **why)
        self._deletions.forget(session, [f"files/{row.id}"])
