"""A large request body on its way to a thread that works on it, with nothing but one piece in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import anyio
from anyio.to_thread import run_sync
from fastapi import Request

from api.errors import TooSlow
from opensloth.errors import OpenSlothError, TooLarge

PIECE_BYTES = 256 * 1024
"""What the socket gives is collected to this size, so that changing threads costs little."""
FORM_BYTES = 64 * 1024
"""Room for the form around a file of the greatest size."""
DRAIN_BYTES = 64 * 2**20
DRAIN_S = 5.0
SILENCE_S = 60.0
"""How long a client may send nothing of a file."""


async def receive(
    request: Request, feed: Callable[[bytes], None], max_bytes: int, threads: anyio.CapacityLimiter
) -> None:
    """Give the body to `feed`, piece by piece, in one of `threads`; raises what `feed` raises, and TooLarge at once."""
    too_large = TooLarge(
        f"the file is larger than {max_bytes:,} bytes", code="file_too_large", hint="split it into several files"
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes + FORM_BYTES:
        raise too_large
    stream = _in_time(request.stream())
    pieces: list[bytes] = []
    size = total = 0
    try:
        async for piece in stream:
            pieces.append(piece)
            size += len(piece)
            total += len(piece)
            if total > max_bytes + FORM_BYTES:  # also of what follows the file, and has no end
                raise too_large
            if size >= PIECE_BYTES:
                await run_sync(feed, b"".join(pieces), limiter=threads)
                pieces, size = [], 0
        await run_sync(feed, b"".join(pieces), limiter=threads)
    except OpenSlothError:
        await _drain(stream)
        raise


async def _in_time(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`stream`; raises TooSlow where nothing of it comes for long."""
    pieces = aiter(stream)
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise TooSlow(f"nothing came for {SILENCE_S:g} s", hint="send the file again") from None
        if piece is None:
            return
        yield piece


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Take the rest of a refused body for a moment: most clients read the answer only after they have sent all."""
    give_up = time.monotonic() + DRAIN_S
    left = DRAIN_BYTES
    async for piece in stream:
        left -= len(piece)
        if left < 0 or time.monotonic() > give_up:
            return
