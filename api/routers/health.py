"""`/healthz`: the process lives. `/readyz`: what it needs answers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from api.dependencies import LanesDep, ServicesDep
from opensloth.accounts.keys import Caller
from opensloth.events.publisher import redis_client
from opensloth.services import Services
from opensloth.storage.space import shortage

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])
NOBODY = Caller(owner="readyz", role="member")


class Health(BaseModel):
    """The process answers."""

    status: str = "ok"


class Readiness(BaseModel):
    """`ready` or `not ready`; each part is `ok`, `away` or `short`.

    Redis may be away: events are late then, not lost. With a disk that is short nothing new is taken in, so that it is
    not ready; what is there can be read.
    """

    status: str
    parts: dict[str, str]


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> Health:
    """Whether the process answers; `async`, so that it needs none of the threads that may all wait for something."""
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(request: Request, response: Response, services: ServicesDep, lanes: LanesDep) -> Readiness:
    """Whether database and storage can be used and there is room on the disk; 503 if not."""
    parts = await lanes.readiness.run(request, lambda: _parts(services))
    ready = parts["database"] == parts["storage"] == parts["disk"] == "ok"
    response.status_code = 200 if ready else 503
    response.headers["Cache-Control"] = "no-store"
    return Readiness(status="ready" if ready else "not ready", parts=parts)


def _parts(services: Services) -> dict[str, str]:
    parts = {
        "database": _ask("database", lambda: _database(services)),
        "storage": _ask("storage", services.storage.ping),
        "redis": _ask("redis", lambda: redis_client(services.settings.redis).ping()),
    }
    settings = services.settings
    parts["disk"] = "short" if shortage(services.storage, settings.home, settings.min_free_bytes) else "ok"
    return parts


def _database(services: Services) -> None:
    """Jobs can be read, and something can be written: a disk may be full, or somebody keep all writers out."""
    services.jobs.list(NOBODY, limit=1)
    services.database.probe()


def _ask(name: str, question: Callable[[], object]) -> str:
    try:
        question()
    except Exception as error:  # whatever a driver raises, the answer is that the part is away
        log.warning("%s is away: %s", name, error)
        return "away"
    return "ok"
