"""One feed for each job that is watched in this process, and its events as an endless response."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
from anyio.to_thread import run_sync
from redis.asyncio import Redis

from api.streaming.feed import BATCH, Feed, Frame, Watcher, frame_of_view
from opensloth.errors import OpenSlothError
from opensloth.events.store import EventStore

HEARTBEAT_S = 15.0
"""A comment goes out at least this often, so that proxies and clients see a living connection."""
HEARTBEAT = b": keep-alive\n\n"
READER_THREADS = 8
"""Threads that read history for all streams together; requests have their own."""
FEW_WATCHERS = 20
REST_EACH_S, MOST_REST_S = 0.0005, 0.25
"""What is sent costs by the piece, not by the event: many watchers get many events at once, a moment later."""
_TIMEOUTS: dict[str, Any] = {"socket_timeout": 2.0, "socket_connect_timeout": 1.0}


class Hub:
    """The feeds of this process; `limiter` bounds the threads that all endless responses read with."""

    def __init__(self, redis_url: str, events: EventStore) -> None:
        self._redis = Redis.from_url(redis_url, **_TIMEOUTS)
        self._events = events
        self.limiter = anyio.CapacityLimiter(READER_THREADS)
        self._feeds: dict[str, Feed] = {}
        self.ending = False
        """The process stops: streams end, and their clients take them up again elsewhere or later."""

    def end(self) -> None:
        """End every stream at its next event, which is now."""
        self.ending = True
        for feed in self._feeds.values():
            feed.wake()

    async def close(self) -> None:
        """End the connection to Redis."""
        await self._redis.aclose()

    async def stream(self, job_id: str, after: int, *, is_over: bool) -> AsyncGenerator[bytes, None]:
        """SSE of the events beyond `after`: those of the past, then each as it happens, until the job's last one.

        `is_over` says that the job had ended before this call, so that nothing but the past is left.
        """
        place = _Place(after)
        yield b"retry: 1000\n\n"
        try:
            async for chunk in self._past(job_id, place):
                yield chunk
            if is_over or place.ended:
                return
            async with aclosing(self._live(job_id, place)) as live:
                async for chunk in live:
                    yield chunk
        except OpenSlothError:
            # The database is away: the client takes the stream up again behind the last event that it has.
            return

    async def _live(self, job_id: str, place: _Place) -> AsyncGenerator[bytes, None]:
        feed = self._feeds.get(job_id)
        if feed is None:
            feed = self._feeds[job_id] = Feed(job_id, self._redis, self._events, self.limiter, self._rest_s)
        watcher = feed.watch(place.seq)
        try:
            # What came between the last look and the first live event.
            async for chunk in self._past(job_id, place):
                yield chunk
            while not (place.ended or self.ending):
                frames = await self._next(watcher, place)
                if frames is None:
                    async for chunk in self._past(job_id, place):
                        yield chunk
                else:
                    yield place.pass_on(frames) or HEARTBEAT
        finally:
            if feed.leave(watcher) and self._feeds.get(job_id) is feed:
                del self._feeds[job_id]

    def _rest_s(self) -> float:
        """How long a feed lets events gather: nothing with a few watchers, a quarter of a second with hundreds."""
        watching = sum(feed.watching for feed in self._feeds.values())
        return 0.0 if watching < FEW_WATCHERS else min(MOST_REST_S, watching * REST_EACH_S)

    async def _next(self, watcher: Watcher, place: _Place) -> list[Frame] | None:
        """The frames that come next; None if some are missing and the database has to be asked."""
        frames = await watcher.take(HEARTBEAT_S)
        if watcher.lagging:
            watcher.lagging = False
            return None
        fresh = [frame for frame in frames if frame.seq > place.seq]
        return None if fresh and fresh[0].seq != place.seq + 1 else fresh

    async def _past(self, job_id: str, place: _Place) -> AsyncIterator[bytes]:
        while not place.ended:
            events = await run_sync(self._events.list, job_id, place.seq, BATCH, limiter=self.limiter)
            if events:
                yield place.pass_on([frame_of_view(event) for event in events])
            if len(events) < BATCH:
                return


class _Place:
    """How far one client is."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.ended = False

    def pass_on(self, frames: list[Frame]) -> bytes:
        """The bytes of `frames`, which are then behind the client."""
        if frames:
            self.seq = frames[-1].seq
            self.ended = frames[-1].last
        return b"".join(frame.data for frame in frames)
