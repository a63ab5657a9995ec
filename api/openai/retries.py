"""Which requests the OpenAI SDK sends again: it names no request, so cookies tell whose try it is and what it has.

The answer to a `jobs.create` may be lost after the job is made, and the SDK then sends the same again. Its HTTP client
keeps cookies: one names the client, and one for each job says when the answer with this job reached it. What a try
made before is then a job of this client, of this body, that it has not got; docs/decisions/0011-whose-retry.md.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from typing import Final

from fastapi import Request, Response

CREATE: Final = "/v1/fine_tuning/jobs"
TRIES: Final = "x-stainless-retry-count"
"""The SDK's header: how often it has sent this request before."""
TIMEOUT: Final = "x-stainless-read-timeout"
TIMEOUT_S = 600.0
"""What the SDK waits for an answer unless it is told otherwise."""
BETWEEN_S = 10.0
"""The SDK waits 8 s at most before it tries again."""

_CLIENT, _HAS = "opensloth-client", "opensloth-has-"
_NAME = re.compile(r"[0-9a-f]{16}")
_JOB = re.compile(rf"{_HAS}([0-9a-f]{{24}})")
_KEPT_S = 3600
_MOST = 32
"""Jobs that a client is reminded of; the oldest go, so that its headers stay small."""


def waited_s(request: Request) -> float:
    """How long ago the first try of a request can have come that the SDK sends again; 0 for a first try."""
    try:
        timeout_s = float(request.headers.get(TIMEOUT, str(TIMEOUT_S)))
    except ValueError:
        return 0.0
    return min(_tries(request), 10) * (min(max(timeout_s, 0.0), TIMEOUT_S) + BETWEEN_S)


def client_of(request: Request) -> str | None:
    """The name that an earlier answer gave this client; None where it got none or keeps no cookies."""
    name = request.cookies.get(_CLIENT, "")
    return name if _NAME.fullmatch(name) else None


def known_jobs(request: Request) -> dict[str, bool]:
    """The jobs whose answers reached the client, and whether that was before it sent this try for the first time.

    One that came a moment ago may be what this try is about: the headers of an answer can arrive without its body.
    """
    before = time.time() - 2.0 - 2.0 ** min(_tries(request), 6)
    return {job_id: got_at < before for job_id, got_at in _jobs(request)}


def cookies_of(request: Request) -> Iterator[str]:
    """What any answer to the SDK sets: its client's name, and at a new create that it has got what came before."""
    if TRIES not in request.headers:
        return
    if client_of(request) is None:
        yield _cookie(_CLIENT, secrets.token_hex(8), 30 * 86_400)
    if request.method == "POST" and request.url.path == CREATE and _tries(request) == 0:
        jobs = list(_jobs(request))
        for job_id, _ in jobs[: -(_MOST - 1)]:
            yield _job_cookie(job_id, 0, kept_s=0)
        for job_id, got_at in jobs[-(_MOST - 1) :]:
            if got_at > 0:
                yield _job_cookie(job_id, 0)


def remind(request: Request, response: Response, job_id: str) -> None:
    """Let the client say from now on that it has got `job_id`."""
    if TRIES in request.headers:
        response.headers.append("Set-Cookie", _job_cookie(job_id, int(time.time())))


def _tries(request: Request) -> int:
    told = request.headers.get(TRIES, "0")
    return int(told) if told.isdecimal() and len(told) < 6 else 0


def _jobs(request: Request) -> Iterator[tuple[str, int]]:
    """Job ids, oldest first, and when each was got in seconds since 1970; 0: before the newest create."""
    for name, value in request.cookies.items():
        found = _JOB.fullmatch(name)
        if found and value.isdecimal() and len(value) < 12:
            yield f"ftjob-{found[1]}", int(value)


def _job_cookie(job_id: str, got_at: int, kept_s: int = _KEPT_S) -> str:
    return _cookie(_HAS + job_id.removeprefix("ftjob-"), str(got_at), kept_s, CREATE)


def _cookie(name: str, value: str, kept_s: int, path: str = "/v1") -> str:
    return f"{name}={value}; Max-Age={kept_s}; Path={path}; HttpOnly; SameSite=Strict"
