"""`/v1/jobs/{id}`: cancel, pause, resume, retry, change, move and delete a job."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.bodies import json_body
from api.body import JsonBody, OptionalJsonBody, parsed
from api.dependencies import CallerDep, ServicesDep, strict_query
from api.submission import IdempotencyKey, answered
from opensloth.jobs.ordering import Place
from opensloth.jobs.spec import Priority
from opensloth.jobs.views import JobView

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], dependencies=[Depends(strict_query)])

_STRICT = ConfigDict(extra="forbid", strict=True, defer_build=True)


class Cancel(BaseModel):
    """How to cancel."""

    model_config = _STRICT

    save: Annotated[bool, Field(description="Whether a running job saves a checkpoint first.")] = True


class RetryBody(BaseModel):
    """From where to try again."""

    model_config = _STRICT

    from_checkpoint: Annotated[
        bool, Field(description="Go on from the newest checkpoint instead of from the beginning.")
    ] = False


class JobDeleted(BaseModel):
    """A job that is gone."""

    id: str
    object: Literal["job"] = "job"
    deleted: bool = True


class Change(BaseModel):
    """What to change of a job."""

    model_config = _STRICT

    priority: Annotated[
        Priority | None, Field(description="Class in the queue; its owner may lower it, an admin also raise it.")
    ] = None
    keep: Annotated[bool | None, Field(description="Whether what it left is kept, whatever its age.")] = None

    @model_validator(mode="after")
    def _something(self) -> Change:
        if self.priority is None and self.keep is None:
            raise ValueError("give `priority` or `keep`")
        return self


class Move(BaseModel):
    """The new place among one's own jobs of the same priority."""

    model_config = _STRICT

    before: Annotated[str | None, Field(max_length=128, description="The job to stand before.")] = None
    to: Annotated[Literal["front", "back"] | None, Field(description="One end of the order.")] = None

    @model_validator(mode="after")
    def _one(self) -> Move:
        if (self.before is None) == (self.to is None):
            raise ValueError('give either `before` (a job) or `to` ("front" or "back")')
        return self


@router.post("/cancel", openapi_extra=json_body(Cancel, required=False, with_a_checkpoint={}, without={"save": False}))
def cancel_job(job_id: str, body: OptionalJsonBody, services: ServicesDep, caller: CallerDep) -> JobView:
    """Cancel a job: at once where nothing runs; a running one saves a checkpoint first, unless `save` is false."""
    return services.control.cancel(job_id, caller, save=parsed(Cancel, body).save)


@router.post("/pause")
def pause_job(job_id: str, services: ServicesDep, caller: CallerDep) -> JobView:
    """Take a job out of the queue, or off its devices to a checkpoint. It stays paused until it is resumed."""
    return services.control.pause(job_id, caller)


@router.post("/resume")
def resume_job(job_id: str, services: ServicesDep, caller: CallerDep) -> JobView:
    """Queue a paused job again: it goes on from its checkpoint as if it had never stopped. 409 while it still stops."""
    return services.control.resume(job_id, caller)


@router.post(
    "/retry",
    status_code=201,
    openapi_extra=json_body(
        RetryBody, required=False, from_the_beginning={}, from_a_checkpoint={"from_checkpoint": True}
    ),
)
def retry_job(
    response: Response,
    job_id: str,
    body: OptionalJsonBody,
    services: ServicesDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey,
) -> JobView:
    """Submit the spec of a job that is over again; the new job has `retry_of`."""
    wanted = parsed(RetryBody, body)
    submitted = services.retries.retry(
        job_id, caller, from_checkpoint=wanted.from_checkpoint, idempotency_key=idempotency_key
    )
    return answered(response, submitted)


@router.patch("", openapi_extra=json_body(Change, urgent={"priority": "urgent"}, keep_its_result={"keep": True}))
def change_job(job_id: str, body: JsonBody, services: ServicesDep, caller: CallerDep) -> JobView:
    """Change the priority, or whether retention leaves the job alone. Only an admin may raise a priority."""
    change = parsed(Change, body)
    return services.control.change(job_id, caller, priority=change.priority, keep=change.keep)


@router.post(
    "/move",
    openapi_extra=json_body(Move, to_the_front={"to": "front"}, before={"before": "ftjob-0123456789abcdef01234567"}),
)
def move_job(job_id: str, body: JsonBody, services: ServicesDep, caller: CallerDep) -> JobView:
    """Give a job that has not begun another place among its owner's jobs of the same priority."""
    place = parsed(Move, body)
    return services.control.move(job_id, caller, Place(place.before, place.to))


@router.delete("")
def delete_job(job_id: str, services: ServicesDep, caller: CallerDep) -> JobDeleted:
    """Delete a job that is over, with its checkpoints, logs and result. 409 while something needs what it left."""
    services.deletion.delete(job_id, caller)
    return JobDeleted(id=job_id)
