"""The trainer's log of a job, attempt after attempt, as far as it is or until the job has ended."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

import anyio
from anyio.to_thread import run_sync

from api.streaming.hub import Hub
from opensloth.accounts.callers import Caller
from opensloth.errors import OpenSlothError
from opensloth.jobs.states import TERMINAL
from opensloth.services import Services
from opensloth.storage import Storage
from opensloth.storage.logs import read_log

CHUNK = 64 * 1024
POLL_S = 0.5
_LOG = re.compile(r"attempt-(\d+)\.log")


class LogReader:
    """Reads the logs of all attempts one after the other; `read` gives what has come since the last call."""

    def __init__(self, storage: Storage, job_id: str) -> None:
        self._storage = storage
        self._folder = f"jobs/{job_id}/logs"
        self._attempt = 0
        self._offset = 0

    def read(self) -> bytes:
        """The next bytes, nothing if there are none at the moment."""
        if self._attempt:
            piece = self._piece()
            if piece:
                return piece
        following = [attempt for attempt in attempts(self._storage, self._folder) if attempt > self._attempt]
        if not following:
            return b""
        self._attempt, self._offset = following[0], 0
        return self._piece()

    def _piece(self) -> bytes:
        key = f"{self._folder}/attempt-{self._attempt}.log"
        piece = read_log(self._storage, key, self._offset, CHUNK)
        self._offset += len(piece)
        return piece


def attempts(storage: Storage, folder: str) -> list[int]:
    """The numbers of the attempts that have a log, in order."""
    found = (_LOG.fullmatch(name) for name in storage.list_keys(folder))
    return sorted(int(match[1]) for match in found if match)


async def log_stream(
    services: Services, job_id: str, caller: Caller, hub: Hub, *, follow: bool
) -> AsyncGenerator[bytes, None]:
    """The log so far; with `follow` also what is added to it, until the job has ended or this process stops."""
    reader, limiter = LogReader(services.storage, job_id), hub.limiter
    while True:
        try:
            # Asked before the log is read, so that nothing written before the end is left out.
            over = (
                not follow
                or hub.ending
                or await run_sync(services.jobs.state, job_id, caller, limiter=limiter) in TERMINAL
            )
        except OpenSlothError:
            # The database is away: the client asks again.
            return
        while piece := await run_sync(reader.read, limiter=limiter):
            yield piece
        if over:
            return
        await anyio.sleep(POLL_S)
