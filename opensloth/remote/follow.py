"""Live events and logs over connections that may break: each piece is given once, in order."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

from opensloth.remote.errors import ClientError, Unavailable, Unreachable
from opensloth.remote.pages import iterate
from opensloth.remote.shapes import Event, Job
from opensloth.remote.sse import messages
from opensloth.remote.transport import Transport, backoff

SILENCE_S = 60.0
"""A stream that sends not even a comment for this long is taken for broken."""

REOPEN_S = 0.25
"""Between a stream that the server ended and the next one."""

OnDrop = Callable[[ClientError, float], None]
"""Called with what went wrong and the seconds until the next try."""


def follow_events(
    transport: Transport, job_id: str, last_seq: int = 0, *, patience_s: float = 300.0, on_drop: OnDrop | None = None
) -> Iterator[Event]:
    """A job's events after `last_seq`, those that come as they come, until the job has ended.

    A dropped connection is taken up again behind the last event; raises Unreachable once the server has been away for
    `patience_s`, and at once what a new try would not change (NotFound, NotAuthenticated).
    """
    drops = _Drops(patience_s, on_drop)
    while True:
        try:
            ended = Job(**transport.json("GET", f"/v1/jobs/{job_id}")).ended
            source = _stored(transport, job_id, last_seq) if ended else _live(transport, job_id, last_seq)
            for event in source:
                drops.recovered()
                if event.seq <= last_seq:
                    continue
                last_seq = event.seq
                yield event
                if event.ends_the_job:
                    return
            if ended:
                return
            time.sleep(REOPEN_S)
        except (Unreachable, Unavailable) as problem:
            drops.wait(problem)


def follow_log(
    transport: Transport, job_id: str, *, patience_s: float = 300.0, on_drop: OnDrop | None = None
) -> Iterator[str]:
    """A job's log and what is added to it, as pieces of text, until the job has ended."""
    drops = _Drops(patience_s, on_drop)
    seen = 0
    while True:
        try:
            ended = Job(**transport.json("GET", f"/v1/jobs/{job_id}")).ended
            skip = seen
            params = {"follow": "true"}
            with transport.stream("GET", f"/v1/jobs/{job_id}/logs", params=params, timeout=SILENCE_S) as response:
                for text in response.iter_text():
                    fresh = text[skip:]
                    skip = max(0, skip - len(text))
                    if fresh:
                        drops.recovered()
                        seen += len(fresh)
                        yield fresh
            # A server that loses its database ends the stream too, so only a stream begun after the end is the whole.
            if ended:
                return
            time.sleep(REOPEN_S)
        except (Unreachable, Unavailable) as problem:
            drops.wait(problem)


def _stored(transport: Transport, job_id: str, last_seq: int) -> Iterator[Event]:
    params = {"after": last_seq} if last_seq else None
    return iterate(transport, f"/v1/jobs/{job_id}/events", Event, params=params)


def _live(transport: Transport, job_id: str, last_seq: int) -> Iterator[Event]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", "Last-Event-ID": str(last_seq)}
    with transport.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=SILENCE_S) as response:
        for message in messages(response.iter_lines()):
            body = json.loads(message.data)
            if isinstance(body, dict) and "type" in body:
                yield Event(**body)


class _Drops:
    """How long the server has been away, and how long to wait before the next try."""

    def __init__(self, patience_s: float, on_drop: OnDrop | None) -> None:
        self._patience_s = patience_s
        self._on_drop = on_drop
        self._since: float | None = None
        self._attempt = 0

    def recovered(self) -> None:
        """The server answers again."""
        self._since, self._attempt = None, 0

    def wait(self, problem: ClientError) -> None:
        """Sleeps before the next try, or raises `problem` when patience is at its end."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= self._patience_s:
            raise problem
        self._attempt += 1
        pause = backoff(self._attempt)
        if self._on_drop is not None:
            self._on_drop(problem, pause)
        time.sleep(pause)
