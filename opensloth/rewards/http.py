"""The reward `http`: a team's own scoring service, at a URL that the administrator allows."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from opensloth.rewards.failures import RowProblem
from opensloth.rewards.registry import Reward, register_reward
from opensloth.rewards.spec import Column, Params, Row

if TYPE_CHECKING:
    import httpx

MAX_ANSWER = 4 * 2**20
BACKOFF_S = 0.25
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpParams(Params):
    """The service and how patient to be with it."""

    url: str = Field(min_length=1, max_length=2048)
    """Where completions are posted; one of the URLs that the administrator allows, letter by letter."""
    columns: list[Column] | None = Field(default=None, max_length=100)
    """The columns that are sent; every one of the row when not set."""
    batch_size: int = Field(default=32, ge=1, le=1024)
    """Completions in one request, a count."""
    timeout_s: float = Field(default=10.0, gt=0, le=60)
    """Seconds until a request has failed."""
    max_retries: int = Field(default=3, ge=0, le=10)
    """How often a request is repeated that found no connection, no answer, or a busy server; a count."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Sent along as `params`."""


class _Again(Exception):
    """Another try may do better."""


def score_http(params: HttpParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """Posts `{"completions": [...], "rows": [...], "params": {...}}` and reads `{"scores": [...]}`, batch by batch.

    Raises ValueError that says what the service answered.
    """
    import httpx

    # Neither proxies nor .netrc of the environment: the URL that the administrator allowed is what is spoken to.
    with httpx.Client(
        follow_redirects=False, trust_env=False, timeout=params.timeout_s, verify=_certificates()
    ) as client:
        return [score for batch in _batches(params, completions, rows) for score in _ask(client, params, batch)]


def _certificates() -> ssl.SSLContext:
    """The authorities in SSL_CERT_FILE, for services with a certificate of the team's own; else those of the system."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))


def _batches(params: HttpParams, completions: Sequence[str], rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(completions), params.batch_size):
        end = start + params.batch_size
        sent = [_chosen(params, row) for row in rows[start:end]]
        yield {"completions": list(completions[start:end]), "rows": sent, "params": params.extra}


def _chosen(params: HttpParams, row: Row) -> dict[str, Any]:
    if params.columns is None:
        return dict(row)
    missing = next((column for column in params.columns if column not in row), None)
    if missing is not None:
        raise RowProblem(f"column `{missing}` is missing")
    return {column: row[column] for column in params.columns}


def _ask(client: httpx.Client, params: HttpParams, batch: dict[str, Any]) -> list[float]:
    body = json.dumps(batch).encode()
    for attempt in range(params.max_retries + 1):
        if attempt:
            time.sleep(min(BACKOFF_S * 2 ** (attempt - 1), params.timeout_s))
        try:
            return _scores(_post(client, params, body), len(batch["completions"]))
        except _Again as problem:
            last = str(problem)
    tries = params.max_retries + 1
    raise ValueError(f"the service failed {tries} time{'s' if tries > 1 else ''}, last: {last}")


def _post(client: httpx.Client, params: HttpParams, body: bytes) -> bytes:
    import httpx

    deadline = time.monotonic() + params.timeout_s
    headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
    answer = bytearray()
    try:
        with client.stream("POST", params.url, content=body, headers=headers) as response:
            if response.status_code in RETRIED:
                raise _Again(f"status {response.status_code}")
            if response.status_code != 200:
                raise ValueError(f"the service answered with status {response.status_code}, not 200")
            for chunk in response.iter_raw():
                answer += chunk
                if len(answer) > MAX_ANSWER:
                    raise ValueError(f"the service's answer is larger than {MAX_ANSWER} bytes")
                if time.monotonic() > deadline:
                    raise _Again(f"no whole answer in {params.timeout_s:g} s")
    except httpx.TransportError as error:
        raise _Again(f"{type(error).__name__}: {error}") from None
    return bytes(answer)


def _scores(answer: bytes, count: int) -> list[float]:
    try:
        scores = json.loads(answer)
    except (ValueError, RecursionError):
        raise ValueError("the service's answer is no JSON") from None
    if isinstance(scores, dict):
        scores = scores.get("scores")
    if not isinstance(scores, list) or len(scores) != count:
        raise ValueError(f'the service must answer {{"scores": [...]}} with {count} numbers')
    return list(scores)


def _time_for(params: HttpParams, count: int) -> float:
    requests = -(-count // params.batch_size)
    waits = sum(min(BACKOFF_S * float(2**attempt), params.timeout_s) for attempt in range(params.max_retries))
    # A request's own limits are for connecting, sending and each read, besides the whole answer.
    return requests * ((params.max_retries + 1) * 3 * params.timeout_s + waits)


register_reward(
    Reward(
        name="http",
        description="Scores from a service at a URL that the administrator allows.",
        params=HttpParams,
        score=score_http,
        columns=lambda params: tuple(params.columns or ()),
        reads_all=True,
        extra_time_s=_time_for,
    )
)
