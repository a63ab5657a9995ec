"""A stream that is quiet shows that it is alive, and loses nothing by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from api.streaming.alive import kept_alive
from api.streaming.hub import HEARTBEAT


def test_comments_fill_the_time_until_the_next_piece_and_the_source_is_closed() -> None:
    closed: list[bool] = []

    async def run() -> list[bytes]:
        go = asyncio.Event()

        async def source() -> AsyncGenerator[bytes, None]:
            try:
                yield b"one"
                await go.wait()
                yield b"two"
                await asyncio.Event().wait()
            finally:
                closed.append(True)

        stream = kept_alive(source(), 0.01)
        seen = [await anext(stream), await anext(stream)]
        go.set()
        while seen[-1] == HEARTBEAT:
            seen.append(await anext(stream))
        await stream.aclose()
        return seen

    seen = asyncio.run(run())
    assert (seen[0], seen[1], seen[-1]) == (b"one", HEARTBEAT, b"two")
    assert closed == [True]
