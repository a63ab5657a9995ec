"""What a job tells while it runs and after: events, metrics, log and checkpoints."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from api.dependencies import CallerDep, ServicesDep, strict_query
from api.streaming.guard import while_allowed
from api.streaming.hub import Hub
from api.streaming.logs import log_stream
from api.streaming.response import EndlessResponse
from opensloth.errors import FieldError, InvalidInput
from opensloth.events.records import EventView
from opensloth.jobs.states import TERMINAL
from opensloth.jobs.views import CheckpointView, Page

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], dependencies=[Depends(strict_query)])

EVENT_STREAM = "text/event-stream"
MAX_SEQ = 2**53
NO_STORE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

EVENTS_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            EVENT_STREAM: {"schema": {"type": "string"}, "example": 'id: 7\ndata: {"seq": 7, "type": "metrics"}'}
        }
    }
}


class Point(BaseModel):
    """One value of a metric; `time` is RFC 3339."""

    step: int
    value: float | None
    time: str


class Series(BaseModel):
    """One metric over the steps."""

    name: str
    points: list[Point]


@router.head("/events", include_in_schema=False, response_model=None)
@router.get("/events", response_model=Page[EventView], responses=EVENTS_ANSWER)
def get_events(
    request: Request,
    job_id: str,
    services: ServicesDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ, description="Events with a greater `seq`.")] = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Page[EventView] | Response:
    """The events of a job, oldest first. With `Accept: text/event-stream` each as it happens, until the job ends."""
    # Asked before the events are read: then a job that is over has its last event among them.
    is_over = services.jobs.state(job_id, caller) in TERMINAL
    if EVENT_STREAM not in request.headers.get("accept", ""):
        return _page(services.events.list(job_id, after, limit + 1), limit)
    if last_event_id:
        after = _seq(last_event_id)
    if is_over and not services.events.list(job_id, after, 1):
        # Tells an EventSource in a browser not to come back.
        return Response(status_code=204, headers=NO_STORE)
    if request.method == "HEAD":
        return Response(media_type=EVENT_STREAM, headers=NO_STORE)
    # Whoever has seen more than there is saw what a restored backup does not know: all watchers share where a feed is.
    after = min(after, services.events.newest(job_id))
    hub = cast(Hub, request.app.state.hub)
    events = hub.stream(job_id, after, is_over=is_over)
    guarded = while_allowed(events, services, job_id, caller, hub.limiter)
    return EndlessResponse(guarded, media_type=EVENT_STREAM, headers=NO_STORE)


@router.get("/metrics")
def get_metrics(
    job_id: str,
    services: ServicesDep,
    caller: CallerDep,
    name: Annotated[
        list[str] | None, Query(description="Once for each metric that is wanted; all if not given.")
    ] = None,
    max_points: Annotated[int | None, Query(ge=1, le=100_000, description="At most so many points a metric.")] = None,
) -> Page[Series]:
    """The metrics of a job over its steps, as of one uninterrupted run."""
    series = services.jobs.metrics(job_id, caller, name or [], max_points)
    return Page(data=[Series.model_validate(entry) for entry in series])


@router.head("/logs", include_in_schema=False)
@router.get("/logs", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def get_logs(
    request: Request, job_id: str, services: ServicesDep, caller: CallerDep, follow: bool = False
) -> Response:
    """The trainer's log of every attempt. With `follow` also what is added to it, until the job ends."""
    await run_in_threadpool(services.jobs.state, job_id, caller)
    media_type = "text/plain; charset=utf-8"
    if request.method == "HEAD":
        return Response(media_type=media_type, headers=NO_STORE)
    hub = cast(Hub, request.app.state.hub)
    log = log_stream(services, job_id, caller, hub, follow=follow)
    guarded = while_allowed(log, services, job_id, caller, hub.limiter)
    return EndlessResponse(guarded, media_type=media_type, headers=NO_STORE)


@router.get("/checkpoints")
def get_checkpoints(job_id: str, services: ServicesDep, caller: CallerDep) -> Page[CheckpointView]:
    """The complete checkpoints of a job, newest first."""
    found = services.jobs.checkpoints(job_id, caller)
    return Page.of(found)


def _page(events: list[EventView], limit: int) -> Page[EventView]:
    return Page.of(events[:limit], len(events) > limit, key="seq")


def _seq(last_event_id: str) -> int:
    if not (last_event_id.isascii() and last_event_id.isdecimal()) or len(last_event_id) > 15:
        raise InvalidInput("a header is not valid", fields=[FieldError("Last-Event-ID", "is the `seq` of an event")])
    return int(last_event_id)
