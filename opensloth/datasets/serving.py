"""Whether a stored file serves a training type, by what its check found; the file itself is never read."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller
from opensloth.datasets.forms import Form, form_named
from opensloth.datasets.purposes import PURPOSE
from opensloth.datasets.report import MAX_COLUMNS, FormCheck, MethodCheck, RowError
from opensloth.datasets.rows import FileRow
from opensloth.datasets.stored import is_expired, stored_check
from opensloth.errors import FieldError, InvalidDataset, InvalidInput


def require_for_training(
    session: Session, file_id: str, method: str, field: str, caller: Caller, form: str | None = None
) -> FileRow:
    """The file's row if it serves the training type `method`; else InvalidInput with the first bad rows.

    `field` is the field of the job that names the file, `form` the form that the job chose, if it did. Only what
    is stored is read, never the file.
    """
    # Locked, so that no deletion slips in between this look and the insert of the job.
    row = session.get(FileRow, file_id, with_for_update={"read": True})
    if row is None or not caller.can_see(row.team) or is_expired(session, row):
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


def first_served(session: Session, file_id: str, methods: Sequence[str], caller: Caller) -> str | None:
    """The first of these training types that the file serves; None if it serves none of them or is not there."""
    row = session.get(FileRow, file_id)
    check = None if row is None or not caller.can_see(row.team) else stored_check(session, row.sha256)
    found = {} if check is None else check.methods
    return next((name for name in methods if name in found and found[name].ok), None)


def columns_of(session: Session, row: FileRow) -> Sequence[str] | None:
    """The columns of a file, as `messages.shown` writes them; None if they are too many to be known by name."""
    check = stored_check(session, row.sha256)
    return None if check is None or len(check.columns) >= MAX_COLUMNS else check.columns


def tool_calls_row(session: Session, row: FileRow, method: str, form: str | None = None) -> int | None:
    """The first row that calls a tool in the form that a job of this method reads; None if none does or is known to."""
    check = stored_check(session, row.sha256)
    if check is None or method not in check.methods:
        return None
    found: FormCheck = check.methods[method]
    return (found if form is None else check.methods[method].forms.get(form, found)).tool_calls_row


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
