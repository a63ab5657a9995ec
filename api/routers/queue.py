"""`/v1/queue`: who is next; `/v1/usage`: who used how much."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.dependencies import CallerDep, ServicesDep, strict_query
from opensloth.jobs.queue_views import QueuePage
from opensloth.jobs.usage import UsageView
from opensloth.jobs.views import Page

router = APIRouter(prefix="/v1", tags=["queue"], dependencies=[Depends(strict_query)])


@router.get("/queue")
def show_queue(
    services: ServicesDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many places.")] = 100,
    after: Annotated[int, Query(ge=0, description="The last `position` of the page before.")] = 0,
) -> QueuePage:
    """The queue in the order in which it is served, with what each job waits for and when it is expected to start.

    Jobs of other teams show their place, their devices and their expected start, and nothing else.
    """
    entries, more = services.queue.entries(caller, limit=limit, after=after)
    return QueuePage(data=entries, has_more=more)


@router.get("/usage")
def show_usage(
    services: ServicesDep,
    caller: CallerDep,
    days: Annotated[int, Query(ge=1, le=366, description="Days (UTC), today included.")] = 7,
) -> Page[UsageView]:
    """Who used how much of the devices, most first; of the own team, an admin sees all."""
    return Page(data=services.usage.recent(caller, days))
