"""Comments in a stream of server-sent events while nothing else comes, so that nobody between takes it for dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from api.streaming.hub import HEARTBEAT


async def kept_alive(source: AsyncGenerator[bytes, None], every_s: float) -> AsyncGenerator[bytes, None]:
    """What `source` gives, and a comment whenever it gave nothing for `every_s` seconds; closes it at the end."""
    coming = asyncio.ensure_future(anext(source, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=every_s)
            if not done:
                yield HEARTBEAT
                continue
            piece = coming.result()
            if piece is None:
                return
            yield piece
            coming = asyncio.ensure_future(anext(source, None))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await source.aclose()
