"""`/v1/files`: datasets, in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from api.dependencies import After, CallerDep, LanesDep, ServicesDep, strict_query
from api.errors import from_domain, invalid_request
from api.multipart import FileForm
from api.stored import stored_response
from api.uploads import receive
from opensloth.datasets.expiry import LEAST_S, MOST_S, expiry_seconds
from opensloth.datasets.previews import FilePreview, LossOn
from opensloth.datasets.purposes import PURPOSE, require_purpose
from opensloth.datasets.report import FileCheck
from opensloth.datasets.upload import Spool
from opensloth.datasets.views import FileView
from opensloth.errors import FieldError, InvalidInput, NotFound
from opensloth.jobs.views import Page


class FileRoute(APIRoute):
    """A route whose wrong input is answered with 400: OpenAI's clients make their `BadRequestError` of that alone."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route, with wrong input answered here."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return from_domain(invalid_request(error.errors()), invalid=400)
            except InvalidInput as error:
                return from_domain(error, invalid=400)

        return handler


router = APIRouter(prefix="/v1/files", tags=["files"], dependencies=[Depends(strict_query)], route_class=FileRoute)

EXPIRES_AFTER = ("expires_after[anchor]", "expires_after[seconds]")
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
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": LEAST_S, "maximum": MOST_S},
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
async def upload_file(request: Request, services: ServicesDep, lanes: LanesDep, caller: CallerDep) -> FileView:
    """Upload a dataset. Its rows are checked while it streams in; rows that cannot be read are refused at once.

    A file whose rows fit no training type is kept with status `error` and says in `status_details` why.
    """
    announced = request.headers.get("content-length", "0")
    await run_in_threadpool(services.files.admit, caller, int(announced) if announced.isdecimal() else 0)

    def opened(filename: str) -> Spool:
        # Before the rows, as OpenAI's clients send it: what is no dataset is refused for what it was meant for.
        if "purpose" in form.fields:
            require_purpose(form.fields["purpose"])
        return services.files.spool(filename)

    form = FileForm(request.headers.get("content-type", ""), opened)

    def arrived() -> tuple[Spool, partial[FileView]]:
        spool = form.finish()
        purpose, keep_s = _fields(form.fields)
        return spool, partial(services.files.store, spool, purpose, caller, keep_s=keep_s)

    try:
        await receive(request, form.feed, services.settings.max_upload_bytes, lanes.pieces)
        spool, store = await run_in_threadpool(arrived)
        if await run_sync(spool.is_late, limiter=lanes.pieces):
            return await lanes.check_of(spool.bytes).run(request, store)
        return await run_in_threadpool(store)
    finally:
        if form.spool is not None:
            form.spool.discard()


@router.get("")
def list_files(
    services: ServicesDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: After = None,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Page[FileView]:
    """Files, newest first."""
    files, more = services.files.list(caller, limit=limit, after=after, purpose=purpose, order=order)
    return Page.of(files, more)


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
async def preview_file(
    request: Request,
    file_id: str,
    services: ServicesDep,
    lanes: LanesDep,
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
    work = partial(
        services.previews.preview,
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
    return await lanes.previews.run(request, work)


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


def _fields(fields: dict[str, str]) -> tuple[str, int | None]:
    """The purpose, and how many seconds the file stays."""
    unknown = sorted(set(fields) - {"purpose", *EXPIRES_AFTER})
    problems = [FieldError(name[:64], "this field is not supported", "unknown_field") for name in unknown[:5]]
    if "purpose" not in fields:
        problems.append(FieldError("purpose", f"is missing; send `{PURPOSE}`", "missing"))
    if problems:
        raise InvalidInput("the form is not valid", fields=problems)
    if not set(EXPIRES_AFTER) & set(fields):
        return fields["purpose"], None
    anchor, seconds = (fields.get(name) for name in EXPIRES_AFTER)
    return fields["purpose"], expiry_seconds(anchor, seconds, EXPIRES_AFTER)
