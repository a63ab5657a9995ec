"""What counting requests costs: the same GET on a server that limits its keys and on one that does not, by turns."""

from __future__ import annotations

import http.client
import os
import statistics
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import httpx

from benchmarks.http_api import timed
from benchmarks.support import Bench, save, service, spread
from tests.support.jobs import add_file, add_model, body

ROUNDS = 8
REQUESTS = 80
"""In one round and from one client, by turns on both."""
LIMITS = {"limited": "6000", "unlimited": "0"}


def main(options: list[str]) -> None:
    with ExitStack() as stack:
        servers = {name: _server(stack, limit) for name, limit in LIMITS.items()}
        paths = {name: _job(bench) for name, bench in servers.items()}
        times: dict[str, list[float]] = {name: [] for name in servers}
        ratios = []
        for number in range(ROUNDS):
            order = sorted(servers, reverse=bool(number % 2))
            medians = {}
            for name in order:
                measured = _measure(servers[name], paths[name])
                times[name] += measured
                medians[name] = statistics.median(measured)
            ratios.append(medians["limited"] / medians["unlimited"])
        result: dict[str, Any] = {"unit": "ms", **{name: spread(found) for name, found in times.items()}}
        save("rate_limits", result | {"ratio_of_medians": round(statistics.median(ratios), 3)})


def _server(stack: ExitStack, limit: str) -> Bench:
    with patch.dict(os.environ, {"OPENSLOTH_REQUESTS_PER_MINUTE": limit}):
        return stack.enter_context(service())


def _job(bench: Bench) -> str:
    add_model(bench.services)
    spec = body(bench.services, add_file(bench.services))
    with bench.client() as client:
        answer = client.post("/v1/jobs", json=spec)
        answer.raise_for_status()
        return f"/v1/jobs/{answer.json()['id']}"


def _measure(bench: Bench, path: str) -> list[float]:
    """Milliseconds of each request, over one connection."""
    address = httpx.URL(bench.url)
    connection = http.client.HTTPConnection(address.host, address.port, timeout=60)

    def request() -> None:
        connection.request("GET", path, headers={"Authorization": f"Bearer {bench.key}"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"GET {path}: {answer.status}")

    request()
    times = [timed(request) for _ in range(REQUESTS)]
    connection.close()
    return times
