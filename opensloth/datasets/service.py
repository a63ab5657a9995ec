"""Uploaded files: stored whole or not at all, checked once per content, and asked before a job is accepted."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from sqlalchemy import or_, select, tuple_
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import HOST, Caller, require_visible, visible_to
from opensloth.database import Database, db_now, insert_of, now_of
from opensloth.datasets.forms import Form, form_named
from opensloth.datasets.report import (
    CHECK_VERSION,
    MAX_COLUMNS,
    OLDEST_CHECK,
    FileCheck,
    FormCheck,
    MethodCheck,
    RowError,
)
from opensloth.datasets.rows import FileCheckRow, FileRow
from opensloth.datasets.upload import Spool, disk_errors
from opensloth.errors import Conflict, FieldError, InvalidDataset, InvalidInput
from opensloth.settings import Settings
from opensloth.storage import Storage
from opensloth.storage.deletions import Deletions
from opensloth.storage.space import require_room

PURPOSE = "fine-tune"
OTHER_PURPOSES = {
    "assistants": "there are no assistants here",
    "batch": "there is no batch API here",
    "evals": "rows to evaluate on are uploaded with purpose `fine-tune` too",
    "user_data": "nothing but training reads files here",
    "vision": "models are trained on text alone here",
}
"""OpenAI's other purposes, and why no file is taken for them."""
Order = Literal["asc", "desc"]
FORM_BYTES = 4096
"""What a form may add to the file in it."""
UserOfFile = Callable[[Session, str], str | None]
Quota = Callable[[Session, Caller, int], None]
"""Raises QuotaExceeded where the caller may not store so many bytes more."""
Also = Callable[[Session, FileRow], None]
"""Done in the transaction that keeps a file."""


_HUB = Field(exclude_if=lambda value: value is None)
"""Not shown of uploads, whose shape is OpenAI's."""


class FileView(BaseModel):
    """A file in OpenAI's shape; times in seconds since 1970."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed", "error"] = "processed"
    status_details: str | None = None
    expires_at: int | None = None
    source: Annotated[str | None, _HUB] = Field(None, description="The dataset of the hub that it was fetched from.")
    commit: Annotated[str | None, _HUB] = Field(None, description="The commit of that dataset.")

    @classmethod
    def of(cls, row: FileRow, check: FileCheck | None) -> FileView:
        """The view of a stored row; one that serves no training type has the status `error`."""
        problem = None if check is None else unfit(check)
        return cls(
            id=row.id,
            bytes=row.bytes,
            created_at=int(row.created_at),
            filename=row.filename,
            purpose=row.purpose,
            status="error" if problem else "processed",
            status_details=problem,
            expires_at=None if row.expires_at is None else int(row.expires_at),
            source=row.source,
            commit=row.commit,
        )


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
                _keep_check(session, sha256, check, row.created_at)
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
        return None if row is None or _expired(session, row) else FileView.of(row, stored_check(session, row.sha256))

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
        query = query.where(visible_to(caller, FileRow.team), _NOT_EXPIRED)
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

    # Deleting and using

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

    def require_for_training(
        self, session: Session, file_id: str, method: str, field: str, caller: Caller, form: str | None = None
    ) -> FileRow:
        """The file's row if it serves the training type `method`; else InvalidInput with the first bad rows.

        `field` is the field of the job that names the file, `form` the form that the job chose, if it did. Only what
        is stored is read, never the file.
        """
        # Locked, so that no deletion slips in between this look and the insert of the job.
        row = session.get(FileRow, file_id, with_for_update={"read": True})
        if row is None or not caller.can_see(row.team) or _expired(session, row):
            message = f"there is no file {file_id!r}; upload it with POST /v1/files"
            raise InvalidInput("a file cannot be found", fields=[FieldError(field, message, "file_not_found")])
        if row.purpose != PURPOSE:
            message = f"the purpose of {file_id} is `{row.purpose}`; name a file with purpose `{PURPOSE}`"
            raise InvalidInput("the file is not for training", fields=[FieldError(field, message, "invalid_purpose")])
        check = stored_check(session, row.sha256)
        if check is None or method not in check.methods:
            message = f"the file {file_id} was checked by another release; upload it again"
            raise InvalidDataset("a file has to be checked again", fields=[FieldError(field, message, "check_missing")])
        found: FormCheck = check.methods[method]
        if form is not None:
            found = _in_form(check.methods[method], form_named(method, form))
        if found.ok:
            return row
        raise InvalidDataset(
            f"{row.filename} ({file_id}) cannot be used for {method}: {found.bad_rows} of {check.rows} rows are wrong",
            hint="correct the rows that are named, upload the file again and submit with its new id",
            fields=[_field_error(field, error) for error in found.errors],
        )

    def serves(self, session: Session, file_id: str, methods: Sequence[str], caller: Caller) -> str | None:
        """The first of these training types that the file serves; None if it serves none of them or is not there."""
        row = session.get(FileRow, file_id)
        check = None if row is None or not caller.can_see(row.team) else stored_check(session, row.sha256)
        found = {} if check is None else check.methods
        return next((name for name in methods if name in found and found[name].ok), None)

    def columns(self, session: Session, row: FileRow) -> Sequence[str] | None:
        """The columns of a file, as `messages.shown` writes them; None if they are too many to be known by name."""
        check = stored_check(session, row.sha256)
        return None if check is None or len(check.columns) >= MAX_COLUMNS else check.columns


def require_purpose(purpose: str) -> None:
    """Raise InvalidInput unless files are taken for this purpose."""
    if purpose != PURPOSE:
        why = OTHER_PURPOSES.get(purpose)
        told = f"`{purpose}` is not supported: {why}" if why else f"{purpose[:64]!r} is not supported"
        message = f"files are taken with purpose `{PURPOSE}`; {told}"
        raise InvalidInput("the purpose is not supported", fields=[FieldError("purpose", message)])


def unfit(check: FileCheck) -> str | None:
    """Why a file serves no training type at all; None if it serves one."""
    if any(method.ok for method in check.methods.values()):
        return None
    # The method whose form the file has says more than the one that finds no columns.
    name, method = min(check.methods.items(), key=lambda item: item[1].form is None)
    error = method.errors[0]
    return f"{name}: row {error.row}: {error.message} ({method.bad_rows} of {check.rows} rows)"


def _in_form(found: MethodCheck, form: Form) -> FormCheck:
    """What was found in the form that a job chose."""
    if form.name in found.forms:
        return found.forms[form.name]
    columns = " + ".join(f"`{column}`" for column in form.columns)
    seen = ", ".join(found.forms) or "none"
    message = f"the first rows do not have the form {form.name} ({columns}); they have: {seen}"
    return FormCheck(ok=False, bad_rows=1, errors=[RowError(row=1, message=message)])


def _field_error(field: str, error: RowError) -> FieldError:
    place = f"{field}.rows[{error.row}]" + (f".{error.column}" if error.column else "")
    line = f"line {error.line}: " if error.line not in (None, error.row) else ""
    return FieldError(place, f"{line}{error.message}", "invalid_row", error.row)


def found_file(session: Session, file_id: str, caller: Caller, *, lock: bool = False) -> FileRow:
    """The row of a file that the caller sees; raises NotFound."""
    row = session.get(FileRow, file_id, with_for_update=lock)
    if row is not None and _expired(session, row):
        row = None
    return require_visible(row, caller, f"file {file_id!r}", "`opensloth files list` shows them", param="id")


_NOT_EXPIRED = or_(FileRow.expires_at.is_(None), FileRow.expires_at > db_now())


def _expired(session: Session, row: FileRow) -> bool:
    """Whether a file's time is over; it is there then only for jobs that began with it."""
    return row.expires_at is not None and row.expires_at <= now_of(session)


def stored_check(session: Session, sha256: str, oldest: int = OLDEST_CHECK) -> FileCheck | None:
    """What the check of this content found; None if it was made by rules before those of version `oldest`."""
    row = session.get(FileCheckRow, sha256)
    usable = row is not None and oldest <= row.version <= CHECK_VERSION
    return FileCheck.model_validate(row.check) if row is not None and usable else None


def _keep_check(session: Session, sha256: str, check: FileCheck, now: float) -> None:
    values = {"version": CHECK_VERSION, "check": check.model_dump(mode="json"), "created_at": now}
    # Two uploads of one content may end at the same moment.
    statement = insert_of(session)(FileCheckRow).values(sha256=sha256, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[FileCheckRow.sha256], set_=values))
