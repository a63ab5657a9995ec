"""`/v1/files`: datasets, in OpenAI's shapes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from api.dependencies import After, CallerDep, ServicesDep, strict_query
from api.multipart import FileForm
from api.stored import stored_response
from api.uploads import receive
from opensloth.datasets.previews import FilePreview, LossOn
from opensloth.datasets.report import FileCheck
from opensloth.datasets.service import PURPOSE, FileView
from opensloth.errors import FieldError, InvalidInput, NotFound
from opensloth.jobs.views import Page

router = APIRouter(prefix="/v1/files", tags=["files"], dependencies=[Depends(strict_query)])

TAKEN = "JSONL, JSON or CSV, each also packed with gzip or zstd, or Parquet."
UPLOAD_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": TAKEN,
                        },
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                    },
                }
            }
        },
    }
}


class FileDeleted(BaseModel):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


@router.post("", openapi_extra=UPLOAD_SCHEMA)
async def upload_file(request: Request, services: ServicesDep, caller: CallerDep) -> FileView:
    """Upload a dataset. Its rows are checked while it streams in; rows that cannot be read are refused at once.

    A file whose rows fit no training type is kept with status `error` and says in `status_details` why.
    """
    announced = request.headers.get("content-length", "0")
    await run_in_threadpool(services.files.admit, caller, int(announced) if announced.isdecimal() else 0)
    form = FileForm(request.headers.get("content-type", ""), services.files.spool)

    def store() -> FileView:
        spool = form.finish()
        return services.files.store(spool, _purpose(form.fields), caller)

    try:
        await receive(request, form.feed, services.settings.max_upload_bytes)
        return await run_in_threadpool(store)
    finally:
        if form.spool is not None:
            form.spool.discard()


@router.get("")
def list_files(
    services: ServicesDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 20,
    after: After = None,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Page[FileView]:
    """Files, newest first."""
    files, more = services.files.list(caller, limit=limit, after=after, purpose=purpose, order=order)
    return Page(
        data=files, has_more=more, first_id=files[0].id if files else None, last_id=files[-1].id if files else None
    )


@router.get("/{file_id}")
def get_file(file_id: str, services: ServicesDep, caller: CallerDep) -> FileView:
    """One file."""
    return services.files.get(file_id, caller)


@router.get("/{file_id}/check")
def get_check(file_id: str, services: ServicesDep, caller: CallerDep) -> FileCheck:
    """What the check of its rows found: for each training type whether it serves, and the first bad rows."""
    check = services.files.check(file_id, caller)
    if check is None:
        raise NotFound(f"the file {file_id} was checked by another release", hint="upload it again")
    return check


@router.get("/{file_id}/preview")
def preview_file(
    file_id: str,
    services: ServicesDep,
    caller: CallerDep,
    training_type: Annotated[str | None, Query(max_length=64, description="The first it serves if not given.")] = None,
    model: Annotated[str | None, Query(max_length=256, description="Whose tokenizer and template to use.")] = None,
    form: Annotated[str | None, Query(max_length=64, description="As `dataset_form` of a job.")] = None,
    loss_on: LossOn | None = None,
    max_length: Annotated[int | None, Query(ge=8, le=1_048_576, description="Tokens; longer rows are counted.")] = None,
    eval_file: Annotated[str | None, Query(max_length=64, description="A file whose rows are looked for.")] = None,
    offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
    rows: Annotated[int, Query(ge=0, le=20)] = 3,
) -> FilePreview:
    """Rows as the model will see them, with what is trained on, and statistics of the file."""
    return services.previews.preview(
        file_id,
        caller,
        training_type=training_type,
        model=model,
        form=form,
        loss_on=loss_on,
        max_length=max_length,
        eval_file=eval_file,
        offset=offset,
        rows=rows,
    )


@router.delete("/{file_id}")
def delete_file(file_id: str, services: ServicesDep, caller: CallerDep) -> FileDeleted:
    """Delete a file; refused while a job that is not over needs it."""
    services.files.delete(file_id, caller)
    return FileDeleted(id=file_id)


@router.head("/{file_id}/content", include_in_schema=False)
@router.get("/{file_id}/content", response_class=Response)
def get_content(request: Request, file_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """The bytes as they were uploaded; answers range requests, its ETag is the SHA-256."""
    row = services.files.row(file_id, caller)
    return stored_response(
        request, services.storage, row.storage_key, size=row.bytes, sha256=row.sha256, filename=row.filename
    )


def _purpose(fields: dict[str, str]) -> str:
    unknown = sorted(set(fields) - {"purpose"})
    problems = [FieldError(name[:64], "this field is not supported", "unknown_field") for name in unknown[:5]]
    if "purpose" not in fields:
        problems.append(FieldError("purpose", f"is missing; send `{PURPOSE}`", "missing"))
    if problems:
        raise InvalidInput("the form is not valid", fields=problems)
    return fields["purpose"]
