"""Work for a client that may go away before it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import Request

from opensloth.errors import Unavailable


async def unless_gone(request: Request, work: Callable[[], Any]) -> Any:
    """What `work` gives; it is cancelled where the client goes away first, and nobody gets what is returned then."""
    working = asyncio.ensure_future(work())
    watching = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Unavailable("the client went away", code="client_gone")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
