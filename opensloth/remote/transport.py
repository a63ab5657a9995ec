"""Requests with a key, errors as exceptions, and retries where a retry cannot do anything twice."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from opensloth.remote.credentials import Credentials
from opensloth.remote.errors import ClientError, Unreachable, error_from_response

ATTEMPTS = 4
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 10.0
SAFE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
AWAY = frozenset({429, 502, 503, 504})


class Transport:
    """One HTTP connection pool to one server."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = credentials.base_url
        self._client = httpx.Client(
            base_url=credentials.base_url,
            headers={"Authorization": f"Bearer {credentials.api_key}", "User-Agent": "opensloth"},
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            transport=transport,
        )

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The JSON object that the server answers with; raises ClientError."""
        response = self.request(method, path, **options)
        if not response.content:
            return {}
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Unreachable(
                f"{self.base_url} answered {method} {path} with something that is not OpenSloth's JSON.",
                code="not_opensloth",
                hint="Is this the address of an OpenSloth server?",
            )
        return body

    def request(self, method: str, path: str, *, idempotent: bool | None = None, **options: Any) -> httpx.Response:
        """A whole answer of status below 400.

        Lost connections are retried if the request is idempotent (by its method, or as the caller says), a server that
        is away for a moment also when it says by `Retry-After` that it did not take the request.
        """
        safe = method in SAFE_METHODS if idempotent is None else idempotent
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS
            try:
                response = self._client.request(method, path, **options)
            except httpx.TransportError as problem:
                if last or not safe or isinstance(problem, httpx.ConnectError | httpx.UnsupportedProtocol):
                    raise self.unreachable(problem) from problem
                time.sleep(backoff(attempt))
                continue
            if response.status_code < 400:
                return response
            retry_after = _retry_after(response)
            stays = response.headers.get("X-Should-Retry") == "false"
            if last or stays or response.status_code not in AWAY or (not safe and retry_after is None):
                raise error_from_response(response)
            time.sleep(backoff(attempt) if retry_after is None else retry_after)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """An open answer of status below 400, without retries; the caller reads it.

        Raises ClientError, also for a connection that breaks while the caller reads.
        """
        try:
            with self._client.stream(method, path, **options) as response:
                if response.status_code >= 400:
                    response.read()
                    raise error_from_response(response)
                yield response
        except httpx.TransportError as problem:
            raise self.unreachable(problem) from problem

    def unreachable(self, problem: Exception) -> ClientError:
        """What a broken or refused connection means to a person."""
        if isinstance(problem, httpx.ConnectError | httpx.ConnectTimeout):
            return Unreachable(
                f"Nothing answers at {self.base_url} ({_reason(problem)}); is `opensloth up` running?",
                code="unreachable",
                hint="`opensloth up` starts a server on this machine; `opensloth login URL` chooses another.",
            )
        if isinstance(problem, httpx.UnsupportedProtocol):
            return Unreachable(
                f"{self.base_url!r} is not an address; it begins with http:// or https://.", code="bad_address"
            )
        return Unreachable(f"The connection to {self.base_url} was lost ({_reason(problem)}).", code="connection_lost")


def backoff(attempt: int) -> float:
    """Seconds before the next try: doubled each time, with jitter, so that many clients do not come back at once."""
    return float(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0))


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return min(LONGEST_WAIT_S, max(0.0, float(response.headers["Retry-After"])))
    except (KeyError, ValueError):
        return None


def _reason(problem: Exception) -> str:
    text = str(problem).strip().rstrip(".")
    return "connection refused" if "refused" in text.lower() else text or type(problem).__name__
