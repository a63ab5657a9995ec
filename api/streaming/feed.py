"""The live events of one job in this process: read once, encoded once, handed to every watcher."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import anyio
from anyio.to_thread import run_sync

from opensloth.events.publisher import stream_key
from opensloth.events.records import EventView
from opensloth.events.store import EventStore
from opensloth.jobs.states import TERMINAL

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

BATCH = 500
BLOCK_MS = 1000
POLL_S = 0.5
"""How often the database is asked while Redis is away."""
QUIET_S = 5.0
"""After this long without news the database is asked all the same: Redis may have lost some."""
RETRY_S = 3.0
"""How long Redis is left alone after it failed."""
CAPACITY = 2_000
"""Events that may wait for a slow client; beyond, it is sent back to the database."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as it goes over the wire; `last` if nothing can follow it."""

    seq: int
    data: bytes
    last: bool


def frame_of(seq: int, encoded: bytes) -> Frame:
    """The SSE frame of an event's JSON."""
    last = b'"type":"state"' in encoded and json.loads(encoded)["data"].get("to") in TERMINAL
    return Frame(seq, b"id: %d\ndata: %s\n\n" % (seq, encoded), last)


def frame_of_view(event: EventView) -> Frame:
    """The SSE frame of an event from the database; the same bytes as from the stream."""
    return frame_of(event.seq, event.model_dump_json().encode())


class Watcher:
    """The frames that wait for one client. `lagging` means that some were dropped and are to be read again."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._news = asyncio.Event()
        self.lagging = False

    def push(self, frames: list[Frame]) -> None:
        """Add frames; beyond the capacity all are dropped and the watcher lags."""
        if self.lagging or len(self._frames) + len(frames) > CAPACITY:
            self._frames.clear()
            self.lagging = True
        else:
            self._frames.extend(frames)
        self._news.set()

    def wake(self) -> None:
        """Let `take` return, with or without frames."""
        self._news.set()

    async def take(self, timeout_s: float) -> list[Frame]:
        """All frames that wait, as soon as there is one; nothing after `timeout_s` or while lagging."""
        if not self._frames and not self.lagging:
            with anyio.move_on_after(timeout_s):
                await self._news.wait()
        self._news.clear()
        frames = list(self._frames)
        self._frames.clear()
        return frames


class Feed:
    """Follows one job from the Redis stream, from the database where Redis is away, as long as somebody watches."""

    def __init__(
        self,
        job_id: str,
        redis: Redis,
        events: EventStore,
        limiter: anyio.CapacityLimiter,
        rest_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._rest_s = rest_s
        self._job_id = job_id
        self._redis = redis
        self._events = events
        self._limiter = limiter
        self._watchers: set[Watcher] = set()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._seq = 0

    def watch(self, after: int) -> Watcher:
        """A watcher of what comes from now on; events up to `after` were seen already."""
        watcher = Watcher()
        self._watchers.add(watcher)
        if self._task is None:
            self._seq = after
            self._task = asyncio.create_task(self._run(), name=f"feed {self._job_id}")
        return watcher

    @property
    def watching(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def wake(self) -> None:
        """Let every watcher look around."""
        for watcher in self._watchers:
            watcher.wake()

    def leave(self, watcher: Watcher) -> bool:
        """End a watcher; returns whether it was the last one, upon which the feed has stopped."""
        self._watchers.discard(watcher)
        if self._watchers:
            return False
        # Said as well as cancelled: a driver that swallows one cancellation must not keep the feed alive.
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
        return True

    async def _run(self) -> None:
        while not self._stopped:
            away_s = 0.0
            try:
                await self._from_redis()
            except Exception as error:  # whatever the client or a socket raises: the database is the truth
                log.info("events of %s come from the database: %s", self._job_id, error)
                away_s = RETRY_S
            await self._from_database(away_s)

    async def _from_redis(self) -> None:
        """Follow the stream; returns when it has lost something or was quiet for long."""
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while loop.time() - heard < QUIET_S and not self._stopped:
            found = await self._redis.xread({stream_key(self._job_id): f"{self._seq}-0"}, count=BATCH, block=BLOCK_MS)
            if not found:
                continue
            entries = cast(list[Any], found)[0][1]
            frames = [frame_of(int(entry_id.split(b"-")[0]), fields[b"event"]) for entry_id, fields in entries]
            if [frame.seq for frame in frames] != list(range(self._seq + 1, self._seq + 1 + len(frames))):
                return
            self._hand_out(frames)
            heard = loop.time()
            if rest := self._rest_s():
                await asyncio.sleep(rest)

    async def _from_database(self, for_s: float) -> None:
        """Read what is new, and ask again for `for_s` seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + for_s
        while not self._stopped:
            full = await self._read_database()
            if full:
                continue
            if loop.time() >= until:
                return
            await asyncio.sleep(POLL_S)

    async def _read_database(self) -> bool:
        """Hand out the next events of the database; returns whether there may be more at once."""
        try:
            events = await run_sync(self._events.list, self._job_id, self._seq, BATCH, limiter=self._limiter)
        except Exception as error:  # the database is away too: go on asking
            log.warning("events of %s cannot be read: %s", self._job_id, error)
            await asyncio.sleep(POLL_S)
            return False
        if events:
            self._hand_out([frame_of_view(event) for event in events])
        return len(events) == BATCH

    def _hand_out(self, frames: list[Frame]) -> None:
        self._seq = frames[-1].seq
        for watcher in self._watchers:
            watcher.push(frames)
