"""`/v1/uploads`: large files in parts, in OpenAI's shapes."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.bodies import body_of
from api.body import JsonBody, OptionalJsonBody, parsed
from api.dependencies import CallerDep, LanesDep, ServicesDep, strict_query
from api.errors import Malformed
from api.multipart import FileForm
from api.openai.errors import OpenAIRoute
from api.uploads import receive
from opensloth.datasets.expiry import expiry_seconds
from opensloth.datasets.part import MAX_PART_BYTES, PartSpool
from opensloth.datasets.uploads import MAX_PARTS, UploadPartView, UploadView
from opensloth.errors import FieldError, InvalidInput

router = APIRouter(prefix="/v1/uploads", tags=["files"], dependencies=[Depends(strict_query)], route_class=OpenAIRoute)

_CLOSED = ConfigDict(extra="forbid", strict=True, defer_build=True)
PartId = Annotated[str, Field(min_length=1, max_length=64)]


class ExpiresAfter(BaseModel):
    """How long the file stays after it was made."""

    model_config = _CLOSED

    anchor: Any = None
    seconds: Any = None


class BeginUpload(BaseModel):
    """A file that will come in parts; `mime_type` says nothing that the bytes do not."""

    model_config = _CLOSED

    bytes: int = Field(ge=1)
    filename: str = Field(min_length=1, max_length=4096)
    mime_type: str = Field(min_length=1, max_length=256)
    purpose: str = Field(min_length=1, max_length=64)
    expires_after: ExpiresAfter | None = None


class CompleteUpload(BaseModel):
    """The parts in the order of the file."""

    model_config = _CLOSED

    part_ids: list[PartId] = Field(min_length=1, max_length=MAX_PARTS)
    md5: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{32}$")


PART_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


@router.post("", openapi_extra=body_of(BeginUpload))
def begin_upload(body: JsonBody, services: ServicesDep, caller: CallerDep) -> UploadView:
    """Begin a file that comes in parts; it is over in an hour if it is not completed."""
    given = parsed(BeginUpload, body)
    keep_s = None
    if given.expires_after is not None:
        names = ("expires_after.anchor", "expires_after.seconds")
        keep_s = expiry_seconds(given.expires_after.anchor, given.expires_after.seconds, names)
    return services.uploads.create(
        caller, filename=given.filename, purpose=given.purpose, size=given.bytes, keep_s=keep_s
    )


@router.post("/{upload_id}/parts", openapi_extra=PART_BODY)
async def add_part(
    request: Request, upload_id: str, services: ServicesDep, lanes: LanesDep, caller: CallerDep
) -> UploadPartView:
    """Add a part of at most 64 MiB. Parts may come in any order, and several at once."""
    open_spool = await run_in_threadpool(services.uploads.part, upload_id, caller)
    form: FileForm[PartSpool] = FileForm(request.headers.get("content-type", ""), open_spool, "data")

    def keep() -> UploadPartView:
        spool = form.finish()
        if form.fields:
            name = min(form.fields)[:64]
            raise InvalidInput("the form is not valid", fields=[FieldError(name, "there is no such field")])
        return services.uploads.add_part(upload_id, spool, caller)

    try:
        await receive(request, form.feed, MAX_PART_BYTES, lanes.pieces)
        return await run_in_threadpool(keep)
    finally:
        if form.spool is not None:
            form.spool.discard()


@router.post("/{upload_id}/complete", openapi_extra=body_of(CompleteUpload))
async def complete_upload(
    request: Request, upload_id: str, body: JsonBody, services: ServicesDep, lanes: LanesDep, caller: CallerDep
) -> UploadView:
    """Make the file of its parts. Its rows are checked as those of any file; what is refused can be completed again."""
    given = parsed(CompleteUpload, body)
    size = await run_in_threadpool(services.uploads.size, upload_id, caller)
    work = partial(services.uploads.complete, upload_id, given.part_ids, given.md5, caller)
    return await lanes.check_of(size).run(request, work)


@router.post("/{upload_id}/cancel")
def cancel_upload(upload_id: str, body: OptionalJsonBody, services: ServicesDep, caller: CallerDep) -> UploadView:
    """End it without a file; its parts go."""
    if body not in ({}, None):
        raise Malformed("cancelling takes no body")
    return services.uploads.cancel(upload_id, caller)
