"""Submitting and reading jobs with 10,000 of them stored: milliseconds at 1 and 16 clients, and pages as jobs grow."""

from __future__ import annotations

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
            result[f"post_{clients}_clients"] = spread(measure(bench, clients, poster(spec)))
            result[f"get_{clients}_clients"] = spread(measure(bench, clients, getter(bench)))
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


def measure(bench: Bench, clients: int, request: Callable[[httpx.Client], Any]) -> list[float]:
    """The milliseconds of REQUESTS requests, spread over `clients` threads with a connection each."""
    times: list[float] = []

    def work() -> None:
        with bench.client() as client:
            request(client)
            times.extend([timed(lambda: request(client)) for _ in range(REQUESTS // clients)])

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def poster(spec: dict[str, Any]) -> Callable[[httpx.Client], Any]:
    content = json.dumps(spec)
    headers = {"Content-Type": "application/json"}
    return lambda client: client.post("/v1/jobs", content=content, headers=headers).raise_for_status()


def getter(bench: Bench) -> Callable[[httpx.Client], Any]:
    with bench.client() as client:
        job_id = client.get("/v1/jobs", params={"limit": 1}).json()["data"][0]["id"]
    return lambda client: client.get(f"/v1/jobs/{job_id}").raise_for_status()


def timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000
