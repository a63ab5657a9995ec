"""Work that takes seconds or gigabytes: a few pieces at a time, and whoever waits for a turn holds no thread.

The threads that answer requests are forty. Were they waited in, forty previews would keep everybody from everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync
from fastapi import Request

from api.streaming.gone import unless_gone
from opensloth.errors import Unavailable

LARGE_BYTES = 256 * 2**20
"""From this size on a file is checked in the lane of large ones, in which it may take minutes."""
ResultT = TypeVar("ResultT")


class Lane:
    """`at_once` pieces of work at a time, in threads of its own, in the order in which they were asked for."""

    def __init__(self, what: str, at_once: int, wait_s: float | None = None) -> None:
        self._what = what
        self._wait_s = wait_s
        self._turns = asyncio.Semaphore(at_once)
        self._threads = anyio.CapacityLimiter(at_once)

    async def run(self, request: Request, work: Callable[[], ResultT]) -> ResultT:
        """What `work` gives, unless the client goes away before its turn.

        Raises Unavailable where the turn does not come within `wait_s` seconds; None waits as long as the client does.
        """
        await unless_gone(request, self._turn)
        try:
            return await run_sync(work, limiter=self._threads)
        finally:
            self._turns.release()

    async def _turn(self) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable(f"too many {self._what} at the moment", hint="try again in a moment") from None


class Lanes:
    """The lanes of one process. A preview, a grader or a check may take two gigabytes, in a process of its own."""

    def __init__(self, preview_wait_s: float) -> None:
        self.previews = Lane("previews are being made", 2, preview_wait_s)
        self.graders = Lane("graders are tried", 2, 20.0)
        self.readiness = Lane("questions whether the server is ready wait", 2, 20.0)
        """Anybody may ask, and what is asked may hang."""
        self._checks = Lane("files are being checked", 2)
        self._large_checks = Lane("large files are being checked", 1)
        self.pieces = anyio.CapacityLimiter(4)
        """Threads for the bytes of uploads: more would only take turns with each other, and with all other requests."""

    def check_of(self, size: int) -> Lane:
        """The lane for the late check of a file, or for putting one together, of `size` bytes."""
        return self._large_checks if size >= LARGE_BYTES else self._checks
