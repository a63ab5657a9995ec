"""Uploads in parts: each part is stored as it comes, the whole is checked like any file and kept or refused at once."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import Caller, require_visible
from opensloth.database import Database, now_of
from opensloth.datasets.part import MAX_PART_BYTES, PartSpool
from opensloth.datasets.purposes import require_purpose
from opensloth.datasets.rows import FileRow
from opensloth.datasets.service import FileService, Quota
from opensloth.datasets.upload import Spool, clean_filename, disk_errors
from opensloth.datasets.upload_rows import UploadPartRow, UploadRow
from opensloth.datasets.views import FileView
from opensloth.errors import Conflict, FieldError, InvalidInput, TooLarge
from opensloth.settings import Settings
from opensloth.storage import Storage
from opensloth.storage.deletions import Deletions

LIFE_S = 3600.0
"""An upload that is not completed by then is over, as OpenAI has it."""
KEPT_S = 30 * 86_400.0
"""How long an upload that is over is remembered."""
MAX_PARTS = 10_000
CHUNK = 1 << 20
Status = Literal["pending", "completed", "cancelled", "expired"]


class UploadView(BaseModel):
    """An upload in OpenAI's shape; times in seconds since 1970."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Status
    expires_at: int
    file: FileView | None = None


class UploadPartView(BaseModel):
    """A part in OpenAI's shape."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


class _Done(Exception):
    """Another request completed the upload in the same way."""


class UploadService:
    """Takes files in parts. No request holds more than a piece in memory; what is not completed within an hour goes."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        settings: Settings,
        files: FileService,
        deletions: Deletions,
        quota: Quota,
    ) -> None:
        self._db = database
        self._storage = storage
        self._settings = settings
        self._files = files
        self._deletions = deletions
        self._require_quota = quota

    def create(self, caller: Caller, *, filename: str, purpose: str, size: int, keep_s: int | None) -> UploadView:
        """Begin an upload of `size` bytes; raises InvalidInput, TooLarge, QuotaExceeded, InsufficientStorage."""
        require_purpose(purpose)
        most = self._settings.max_upload_bytes
        if size > most:
            raise TooLarge(
                f"the file is larger than {most:,} bytes", code="file_too_large", hint="split it into several"
            )
        self._files.require_room()
        with self._db.write() as session:
            self._require_quota(session, caller, size)
            now = now_of(session)
            row = UploadRow(
                id=f"upload_{secrets.token_hex(12)}",
                owner=caller.owner,
                team=caller.team,
                filename=clean_filename(filename),
                purpose=purpose,
                bytes=size,
                status="pending",
                keep_s=keep_s,
                created_at=now,
                expires_at=now + LIFE_S,
            )
            session.add(row)
            record(session, caller, "upload.create", row.id, filename=row.filename, bytes=row.bytes)
            return _view(row, now, None)

    # Parts

    def part(self, upload_id: str, caller: Caller) -> Callable[[str], PartSpool]:
        """What opens the spool of a part, once it is known that the upload takes one; raises NotFound, Conflict."""
        with self._db.read() as session:
            _require_pending(_found(session, upload_id, caller), now_of(session))
        self._files.require_room()
        folder = self._storage.scratch(self._settings.home.expanduser() / "uploads")
        return lambda filename: PartSpool(folder)

    def add_part(self, upload_id: str, spool: PartSpool, caller: Caller) -> UploadPartView:
        """Keep a part; raises NotFound, Conflict, TooLarge, and then nothing is kept."""
        spool.close()
        if not spool.bytes:
            raise InvalidInput("data: the part is empty", fields=[FieldError("data", "the part is empty")])
        part = UploadPartRow(id=f"part_{secrets.token_hex(12)}", upload_id=upload_id, bytes=spool.bytes)
        key = f"uploads/{upload_id}/{part.id}"
        with disk_errors():
            self._storage.put_file(spool.path, key)
        try:
            with self._db.write() as session:
                row = _found(session, upload_id, caller, lock=True)
                part.created_at = now_of(session)
                _require_pending(row, part.created_at)
                _require_in_bounds(session, row, part.bytes)
                session.add(part)
                return UploadPartView(id=part.id, created_at=int(part.created_at), upload_id=upload_id)
        except BaseException:
            self._storage.delete(key)
            raise

    # Ends

    def size(self, upload_id: str, caller: Caller) -> int:
        """Bytes of the whole file; raises NotFound, NotAllowed."""
        with self._db.read() as session:
            return _found(session, upload_id, caller).bytes

    def complete(self, upload_id: str, part_ids: Sequence[str], md5: str | None, caller: Caller) -> UploadView:
        """Make a file of the parts in this order. Raises InvalidInput, InvalidDataset, Conflict; then it stays pending.

        The same request again gives the same file.
        """
        named = hashlib.sha256(json.dumps([list(part_ids), md5]).encode()).hexdigest()
        with self._db.read() as session:
            row = _found(session, upload_id, caller)
            if row.status == "completed" and row.completed_with == named:
                return self._view(session, row)
            _require_pending(row, now_of(session))
            _require_parts(session, row, part_ids)
        spool = self._files.spool(row.filename)
        try:
            self._assemble(row, part_ids, md5, spool)
            self._files.store(
                spool,
                row.purpose,
                caller,
                keep_s=row.keep_s,
                also=lambda *made: self._end(upload_id, named, caller, *made),
            )
        except _Done:
            pass  # its file is the answer
        finally:
            spool.discard()
        with self._db.read() as session:
            return self._view(session, _found(session, upload_id, caller))

    def cancel(self, upload_id: str, caller: Caller) -> UploadView:
        """End an upload without a file; raises NotFound, Conflict if it was completed."""
        with self._db.write() as session:
            row = _found(session, upload_id, caller, lock=True)
            record(session, caller, "upload.cancel", upload_id, owner=row.owner)
            now = now_of(session)
            if _status(row, now) != "cancelled":
                _require_pending(row, now)
                self._let_go(session, row, "cancelled")
            return _view(row, now, None)

    def expire(self) -> int:
        """Remove the parts of uploads that were not completed in time; returns how many there were."""
        with self._db.read() as session:
            now = now_of(session)
            late = select(UploadRow.id).where(UploadRow.status == "pending", UploadRow.expires_at <= now)
            ids = session.scalars(late).all()
        for upload_id in ids:
            with self._db.write() as session:
                row = session.get(UploadRow, upload_id, with_for_update=True)
                if row is not None and row.status == "pending":
                    self._let_go(session, row, "expired")
        with self._db.write() as session:
            session.execute(delete(UploadRow).where(UploadRow.status != "pending", UploadRow.created_at < now - KEPT_S))
        self._sweep()
        return len(ids)

    def _sweep(self) -> None:
        """Remove parts that came while their upload ended, from requests that were killed."""
        for upload_id in self._storage.list_keys("uploads"):
            with self._db.read() as session:
                row = session.get(UploadRow, upload_id)
            if row is None or row.status != "pending":
                self._storage.delete(f"uploads/{upload_id}")

    def _assemble(self, row: UploadRow, part_ids: Sequence[str], md5: str | None, spool: Spool) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        for piece in self._pieces(row, part_ids):
            digest.update(piece)
            spool.write(piece)
        if md5 is not None and digest.hexdigest() != md5.lower():
            message = f"the parts in this order have the MD5 {digest.hexdigest()}, and {md5} was announced"
            raise InvalidInput(f"md5: {message}", fields=[FieldError("md5", message, "md5_mismatch")])

    def _pieces(self, row: UploadRow, part_ids: Sequence[str]) -> Iterator[bytes]:
        for part_id in part_ids:
            try:
                with self._storage.open(f"{row.storage_key}/{part_id}") as file:
                    while piece := file.read(CHUNK):
                        yield piece
            except FileNotFoundError:
                raise Conflict(f"the upload {row.id} ended meanwhile", code="upload_ended") from None

    def _end(self, upload_id: str, named: str, caller: Caller, session: Session, file: FileRow) -> None:
        """Within the transaction that keeps the file."""
        row = _found(session, upload_id, caller, lock=True)
        if row.status == "completed" and row.completed_with == named:
            raise _Done
        # One that was completed in time may expire while its bytes are put together.
        _require_pending(row, row.created_at)
        row.file_id, row.completed_with = file.id, named
        self._let_go(session, row, "completed")

    def _let_go(self, session: Session, row: UploadRow, status: Status) -> None:
        row.status = status
        session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == row.id))
        self._deletions.forget(session, [row.storage_key])

    def _view(self, session: Session, row: UploadRow) -> UploadView:
        return _view(row, now_of(session), self._files.view(session, row.file_id) if row.file_id else None)


def _found(session: Session, upload_id: str, caller: Caller, *, lock: bool = False) -> UploadRow:
    """The upload, if the caller sees it and may change it; raises NotFound, NotAllowed."""
    row = session.get(UploadRow, upload_id, with_for_update=lock)
    found = require_visible(row, caller, f"upload {upload_id!r}", "begin one with POST /v1/uploads")
    caller.require_change(found.owner, f"the upload {upload_id}")
    return found


def _status(row: UploadRow, now: float) -> Status:
    """The status at `now`; housekeeping may not have come by yet."""
    known: dict[str, Status] = {"completed": "completed", "cancelled": "cancelled", "expired": "expired"}
    return known.get(row.status, "expired" if row.expires_at <= now else "pending")


def _require_pending(row: UploadRow, now: float) -> None:
    status = _status(row, now)
    if status != "pending":
        why = {"completed": "is completed", "cancelled": "was cancelled", "expired": "expired an hour after it began"}
        raise Conflict(f"the upload {row.id} {why[status]}", code=f"upload_{status}", hint="begin another upload")


def _require_in_bounds(session: Session, row: UploadRow, more: int) -> None:
    """A part may come twice, when an answer was lost; beyond that, more bytes than were announced are refused."""
    sums = select(func.count(), func.sum(UploadPartRow.bytes)).where(UploadPartRow.upload_id == row.id)
    count, held = session.execute(sums).one()
    if int(held or 0) + more > 2 * row.bytes + MAX_PART_BYTES or count >= MAX_PARTS:
        raise TooLarge(
            f"the upload {row.id} was to have {row.bytes:,} bytes, and its {count + 1} parts have more than twice that",
            code="upload_too_large",
            hint="cancel it and begin another with the file's size",
        )


def _require_parts(session: Session, row: UploadRow, part_ids: Sequence[str]) -> None:
    """Raise InvalidInput unless these are parts of this upload, each once, with the bytes that were announced."""
    query = select(UploadPartRow.id, UploadPartRow.bytes).where(UploadPartRow.upload_id == row.id)
    known = dict(session.execute(query).tuples().all())
    errors, seen = [], set[str]()
    for place, part_id in enumerate(part_ids):
        if part_id not in known:
            errors.append(
                FieldError(f"part_ids[{place}]", f"the upload has no part {part_id[:64]!r}", "part_not_found")
            )
        elif part_id in seen:
            errors.append(FieldError(f"part_ids[{place}]", f"the part {part_id!r} is named twice"))
        seen.add(part_id)
    total = sum(known.get(part_id, 0) for part_id in seen)
    if not errors and total != row.bytes:
        message = f"the parts have {total:,} bytes, and the upload was begun with {row.bytes:,}"
        errors.append(FieldError("part_ids", message, "bytes_mismatch"))
    if errors:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors[:10])


def _view(row: UploadRow, now: float, file: FileView | None) -> UploadView:
    return UploadView(
        id=row.id,
        bytes=row.bytes,
        created_at=int(row.created_at),
        filename=row.filename,
        purpose=row.purpose,
        status=_status(row, now),
        expires_at=int(row.expires_at),
        file=file,
    )
