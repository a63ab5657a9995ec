"""A stream may outlive the right to it: it ends when the key is revoked, the user disabled or the job out of sight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
from anyio.to_thread import run_sync

from opensloth.accounts.callers import Caller
from opensloth.errors import OpenSlothError
from opensloth.services import Services

ASK_EVERY_S = 10.0
"""How long something may still be shown to who may not see it any more."""


async def while_allowed(
    source: AsyncGenerator[bytes, None],
    services: Services,
    job_id: str,
    caller: Caller,
    limiter: anyio.CapacityLimiter,
) -> AsyncGenerator[bytes, None]:
    """What `source` gives, as long as the caller's key is in use and the caller sees the job."""
    loop = asyncio.get_running_loop()
    asked = loop.time()

    def ask() -> None:
        services.jobs.state(job_id, services.keys.renewed(caller))

    async with aclosing(source):
        async for chunk in source:
            if loop.time() - asked >= ASK_EVERY_S:
                try:
                    await run_sync(ask, limiter=limiter)
                except OpenSlothError:
                    # Not allowed any more, or nobody can say: who comes again is asked for the key again.
                    return
                asked = loop.time()
            yield chunk
