"""`/v1/pulls`: datasets of the hub, fetched as files."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from api.bodies import body_of
from api.body import JsonBody, parsed
from api.dependencies import After, CallerDep, Limit, ServicesDep, strict_query
from api.examples import PULL_EXAMPLES
from opensloth.datasets.pulls import PullView
from opensloth.jobs.views import Page

router = APIRouter(prefix="/v1/pulls", tags=["files"], dependencies=[Depends(strict_query)])


class NewPull(BaseModel):
    """A dataset of the hub to fetch."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    dataset: Annotated[
        str,
        Field(min_length=1, max_length=400, description="As `org/name@revision:config[split]`; org/name is enough."),
    ]
    secret: Annotated[
        str | None,
        Field(min_length=1, max_length=64, description="Your secret with the token for a gated or private dataset."),
    ] = None


@router.post(
    "",
    status_code=201,
    openapi_extra=body_of(NewPull, PULL_EXAMPLES),
)
def pull_dataset(body: JsonBody, services: ServicesDep, caller: CallerDep) -> PullView:
    """Fetch a dataset of the hub. A worker makes it a file like an uploaded one; `file` is its id once it is ready.

    A job may name the dataset itself and waits for it; this is for looking at it before.
    """
    new = parsed(NewPull, body)
    return services.pulls.create(new.dataset, new.secret, caller)


@router.get("")
def list_pulls(services: ServicesDep, caller: CallerDep, limit: Limit = 20, after: After = None) -> Page[PullView]:
    """What your team had fetched, newest first."""
    pulls, more = services.pulls.list(caller, limit, after)
    return Page.of(pulls, more)


@router.get("/{pull_id}")
def get_pull(pull_id: str, services: ServicesDep, caller: CallerDep) -> PullView:
    """How far a dataset is."""
    return services.pulls.get(pull_id, caller)
