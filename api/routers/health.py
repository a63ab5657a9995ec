"""`/healthz`: the process lives. `/readyz`: what it needs answers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import APIRouter, Response
from pydantic import BaseModel

from api.dependencies import ServicesDep
from opensloth.accounts.keys import Caller
from opensloth.events.publisher import redis_client
from opensloth.storage.space import shortage

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])
NOBODY = Caller(owner="readyz", role="member")


class Health(BaseModel):
    """The process answers."""

    status: str = "ok"


class Readiness(BaseModel):
    """`ready` or `not ready`; each part is `ok`, `away` or `short`.

    Redis may be away: events are late then, not lost. With a disk that is short nothing new is taken in.
    """

    status: str
    parts: dict[str, str]


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
def healthz() -> Health:
    """Whether the process answers."""
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"model": Readiness}})
def readyz(response: Response, services: ServicesDep) -> Readiness:
    """Whether database and storage answer; 503 if not."""
    parts = {
        "database": _ask("database", lambda: services.jobs.list(NOBODY, limit=1)),
        "storage": _ask("storage", services.storage.ping),
        "redis": _ask("redis", lambda: redis_client(services.settings.redis).ping()),
    }
    settings = services.settings
    parts["disk"] = "short" if shortage(services.storage, settings.home, settings.min_free_bytes) else "ok"
    ready = parts["database"] == parts["storage"] == "ok"
    response.status_code = 200 if ready else 503
    response.headers["Cache-Control"] = "no-store"
    return Readiness(status="ready" if ready else "not ready", parts=parts)


def _ask(name: str, question: Callable[[], object]) -> str:
    try:
        question()
    except Exception as error:  # whatever a driver raises, the answer is that the part is away
        log.warning("%s is away: %s", name, error)
        return "away"
    return "ok"
