"""`/v1/fine_tuning/jobs`: the jobs of `/v1/jobs` in OpenAI's shapes, under the same ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.bodies import body_of
from api.body import JsonBody
from api.dependencies import CallerDep, ServicesDep, strict_query
from api.openai import retries
from api.openai.common import After, Limit
from api.openai.errors import OpenAIRoute, not_found, renamed
from api.openai.request import CreateJob, read_request
from api.openai.shapes import FineTuningJob, FineTuningJobCheckpoint, FineTuningJobEvent
from api.openai.translation import translate
from api.openai.views import checkpoint_id, checkpoint_of, event_of, job_of, seq_of
from api.routers.jobs import metadata_filter
from api.submission import IdempotencyKey, say_replayed
from opensloth.accounts.callers import Caller
from opensloth.errors import FieldError, InvalidInput, NotFound
from opensloth.jobs.states import State
from opensloth.jobs.views import JobView, Page
from opensloth.models.names import result_name
from opensloth.services import Services

router = APIRouter(
    prefix="/v1/fine_tuning/jobs",
    tags=["fine-tuning"],
    dependencies=[Depends(strict_query)],
    route_class=OpenAIRoute,
)

STOP_S = 10.0
"""A cancel or pause waits so long for the job to have stopped, as OpenAI's answer shows it stopped."""
POLL_S = 0.2


@router.post("", openapi_extra=body_of(CreateJob))
def create_job(
    request: Request,
    response: Response,
    body: JsonBody,
    services: ServicesDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey,
) -> FineTuningJob:
    """Submit a fine-tuning job in OpenAI's shape; `opensloth` in the body takes what OpenAI has no word for."""
    wanted = read_request(body)
    client = retries.client_of(request)
    if idempotency_key is None and (since_s := retries.waited_s(request)):
        earlier = services.jobs.made_from(body, caller, since_s, client, retries.known_jobs(request))
        if earlier is not None:
            say_replayed(response)
            retries.remind(request, response, earlier.id)
            return job_of(earlier)
    made = translate(wanted, services.models.target(wanted.model, caller))
    try:
        job, created = services.jobs.submit(made.body, caller, idempotency_key, request=body, client=client)
    except InvalidInput as error:
        raise _in_their_words(error, wanted.model, made.name_of) from None
    if not created:
        say_replayed(response)
    retries.remind(request, response, job.id)
    return job_of(job)


@router.get("")
def list_jobs(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    metadata: Annotated[str | None, Query(description="`metadata[key]=value`, once for each pair; or `null`.")] = None,
    limit: Limit = 20,
    after: After = None,
) -> Page[FineTuningJob]:
    """Training jobs, newest first."""
    none = metadata == "null"
    pairs = None if none else metadata_filter(request)
    jobs, more = services.jobs.list(
        caller, metadata=pairs, without_metadata=none, kind="training", limit=limit, after=after
    )
    return Page.of([job_of(job) for job in jobs], more)


@router.get("/{job_id}")
def get_job(job_id: str, services: ServicesDep, caller: CallerDep) -> FineTuningJob:
    """One job."""
    return job_of(_found(services, job_id, caller))


@router.post("/{job_id}/cancel")
async def cancel_job(job_id: str, services: ServicesDep, caller: CallerDep) -> FineTuningJob:
    """Cancel a job; one that runs saves a checkpoint first, and is `running` for as long as that takes."""
    return await _stopped(services, services.control.cancel, job_id, caller)


@router.post("/{job_id}/pause")
async def pause_job(job_id: str, services: ServicesDep, caller: CallerDep) -> FineTuningJob:
    """Pause a job: out of the queue, or off its devices to a checkpoint."""
    return await _stopped(services, services.control.pause, job_id, caller)


@router.post("/{job_id}/resume")
def resume_job(job_id: str, services: ServicesDep, caller: CallerDep) -> FineTuningJob:
    """Queue a paused job again; it goes on from its checkpoint."""
    _found(services, job_id, caller)
    return job_of(services.control.resume(job_id, caller))


@router.get("/{job_id}/events")
def list_events(
    job_id: str, services: ServicesDep, caller: CallerDep, limit: Limit = 20, after: After = None
) -> Page[FineTuningJobEvent]:
    """What happened to a job, newest first."""
    _found(services, job_id, caller)
    before = None if after is None else seq_of(after, job_id)
    events = services.events.list(job_id, limit=limit + 1, newest_first=True, before=before)
    return Page.of([event_of(event) for event in events[:limit]], len(events) > limit)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str, services: ServicesDep, caller: CallerDep, limit: Limit = 10, after: After = None
) -> Page[FineTuningJobCheckpoint]:
    """The complete checkpoints of a job, newest first."""
    result = _result_name(services, _found(services, job_id, caller), caller)
    found = services.jobs.checkpoints(job_id, caller)
    if after is not None:
        places = [n for n, checkpoint in enumerate(found) if checkpoint_id(checkpoint) == after]
        if not places:
            message = f"the job has no checkpoint {after!r}"
            raise InvalidInput("the page cannot be found", fields=[FieldError("after", message, "invalid_value")])
        found = found[places[0] + 1 :]
    return Page.of([checkpoint_of(checkpoint, result) for checkpoint in found[:limit]], len(found) > limit)


def _found(services: Services, job_id: str, caller: Caller) -> JobView:
    """A training job that the caller sees; raises NotFound as OpenAI does."""
    with _missing(job_id):
        job = services.jobs.get(job_id, caller)
    if job.kind != "training":
        raise _no_job(job_id)
    return job


@contextmanager
def _missing(job_id: str) -> Iterator[None]:
    try:
        yield
    except NotFound:
        raise _no_job(job_id) from None


def _no_job(job_id: str) -> NotFound:
    return not_found(f"Could not find fine tune: {job_id}", "fine_tune_id", "fine_tune_not_found")


async def _stopped(
    services: Services, stop: Callable[[str, Caller], JobView], job_id: str, caller: Caller
) -> FineTuningJob:
    """Ask for a stop, and answer when it is done or has taken long."""

    def ask() -> JobView:
        _found(services, job_id, caller)
        return stop(job_id, caller)

    job = await run_in_threadpool(ask)
    loop = asyncio.get_running_loop()
    give_up = loop.time() + STOP_S
    while job.state == State.STOPPING and loop.time() < give_up:
        await asyncio.sleep(POLL_S)
        if await run_in_threadpool(services.jobs.state, job_id, caller) is not State.STOPPING:
            job = await run_in_threadpool(services.jobs.get, job_id, caller)
    return job_of(job)


def _result_name(services: Services, job: JobView, caller: Caller) -> str:
    """The name of what the job makes, or will make."""
    if job.result is not None and job.result.model is not None:
        return job.result.model
    posted = str(job.spec["opensloth_config"]["fast_model_args"]["model_name"])
    try:
        base = services.models.get(posted, caller).base or posted
    except NotFound:
        base = posted
    suffix = (job.request or {}).get("suffix") or job.name
    return result_name(base, job.team, str(suffix), job.id)


def _in_their_words(error: InvalidInput, model: str, name_of: Callable[[str], str]) -> Exception:
    """The error of a submission with the request's own fields; an unknown model is OpenAI's 404."""
    if error.error_code != "model_not_found" or [name_of(field.path) for field in error.fields] != ["model"]:
        return renamed(error, name_of)
    why = error.fields[0].message
    own = model.startswith(("ft:", "ftjob-"))
    alias = f"an admin can let the name stand for a model that is here: `opensloth models alias {model} MODEL`"
    hint = None if own else alias
    return not_found(f"The model `{model}` does not exist or cannot be trained: {why}", "model", error.error_code, hint)
