"""Submitting and reading jobs with 10,000 of them stored: milliseconds at 1 and 16 clients, and pages as jobs grow."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from benchmarks.support import Bench, save, service, spread
from tests.support.jobs import add_file, add_model, body

STORED = 10_000
REQUESTS = 800


def main(options: list[str]) -> None:
    with service() as bench:
        add_model(bench.services)
        dataset = add_file(bench.services)
        spec = body(bench.services, dataset)
        result: dict[str, Any] = {"unit": "ms", "pages": {}}
        for stored in (100, STORED):
            fill(bench, spec, stored)
            result["pages"][str(stored)] = page_times(bench)
        for clients in (1, 16):
            result[f"post_{clients}_clients"] = spread(measure(bench, clients, "POST", "/v1/jobs", json.dumps(spec)))
            result[f"get_{clients}_clients"] = spread(measure(bench, clients, "GET", f"/v1/jobs/{newest(bench)}"))
        save("http_api", result)


def fill(bench: Bench, spec: dict[str, Any], count: int) -> None:
    """Submit through HTTP until `count` jobs are stored."""
    with bench.services.database.read() as session:
        from sqlalchemy import func, select

        from opensloth.jobs.rows import JobRow

        there = session.scalar(select(func.count(JobRow.id))) or 0
    with bench.client() as client:
        for _ in range(count - there):
            client.post("/v1/jobs", json=spec).raise_for_status()


def page_times(bench: Bench) -> dict[str, Any]:
    """The first page, a page in the middle, and a filtered one."""
    with bench.client() as client:
        after = client.get("/v1/jobs", params={"limit": 50}).json()["last_id"]
        paths = {
            "first": {"limit": 20},
            "after_50": {"limit": 20, "after": after},
            "by_state": {"limit": 20, "state": "queued"},
        }
        return {
            name: spread([timed(lambda params=params: client.get("/v1/jobs", params=params)) for _ in range(60)])
            for name, params in paths.items()
        }


def measure(bench: Bench, clients: int, method: str, path: str, content: str | None = None) -> list[float]:
    """The milliseconds of REQUESTS requests, spread over `clients` threads with a connection each.

    The standard library's client needs a fraction of the CPU of httpx, which would otherwise take the server's cores.
    """
    address = httpx.URL(bench.url)
    headers = {"Authorization": f"Bearer {bench.key}", "Content-Type": "application/json"}
    times: list[float] = []

    def work() -> None:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=60)

        def request() -> None:
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status}")

        request()
        times.extend([timed(request) for _ in range(REQUESTS // clients)])

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def newest(bench: Bench) -> str:
    """The id of the job that was submitted last."""
    with bench.client() as client:
        return str(client.get("/v1/jobs", params={"limit": 1}).json()["data"][0]["id"])


def timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000
