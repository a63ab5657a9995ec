"""The API process: `uvicorn api.main:app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from anyio.to_thread import run_sync
from fastapi import FastAPI

from api import document, errors
from api.lanes import Lanes
from api.middleware import RequestGuard
from api.openai import chat as chatting
from api.openai import graders, refused, uploads
from api.openai import jobs as fine_tuning
from api.openai.errors import ERRORS as OPENAI_ERRORS
from api.routers import (
    artifacts,
    audit,
    devices,
    estimates,
    evaluations,
    exports,
    files,
    gc,
    health,
    job_control,
    job_streams,
    jobs,
    keys,
    leases,
    me,
    models,
    pulls,
    queue,
    rewards,
    secrets,
    teams,
    users,
    webhooks,
)
from api.streaming.hub import Hub
from api.streaming.stopping import on_stop
from opensloth import __version__
from opensloth.accounts.loopback import require_loopback
from opensloth.errors import Unavailable
from opensloth.schema import require_schema
from opensloth.services import Services
from opensloth.settings import Settings, get_settings

DESCRIPTION = """Post a fine-tuning job; it is queued, placed on the GPUs, trained, watched and kept.

Send `Authorization: Bearer KEY`. Every error is `application/problem+json` with a `code`, the fields at fault and a
hint, and carries OpenAI's `error` object too."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; its services are made when it starts, with the settings of the environment if none are given."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = Services.make(settings or get_settings())
        require_loopback(services.settings.auth, services.settings.host)
        with suppress(Unavailable):  # then its requests are answered so until it is there
            await run_sync(require_schema, services.database)
        app.state.services = services
        app.state.lanes = Lanes(services.settings.preview_timeout_s)
        app.state.hub = hub = Hub(services.settings.redis, services.events)
        with on_stop(hub.end):
            yield
        await hub.close()
        services.database.engine.dispose()

    app = FastAPI(title="OpenSloth", version=__version__, description=DESCRIPTION, lifespan=lifespan)
    app.add_middleware(RequestGuard)
    errors.install(app)
    for module in (
        files,
        pulls,
        estimates,
        devices,
        jobs,
        job_control,
        job_streams,
        artifacts,
        exports,
        evaluations,
        leases,
        queue,
        models,
        rewards,
        keys,
        me,
        secrets,
        teams,
        users,
        audit,
        gc,
    ):
        app.include_router(module.router, responses=document.ERRORS)
    for module in (graders, uploads, fine_tuning, chatting, refused):
        app.include_router(module.router, responses=OPENAI_ERRORS)
    for router in webhooks.routers:
        app.include_router(router, responses=OPENAI_ERRORS)
    app.include_router(health.router)
    document.complete(app)
    return app


app = create_app()
