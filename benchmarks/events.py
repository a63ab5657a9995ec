"""5,000 metrics a second from a trainer's file through the worker's pump to database, stream and an SSE watcher."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import update

from benchmarks.support import Bench, save, service, spread
from opensloth.jobs.attempts import AttemptService
from opensloth.jobs.rows import AttemptRow, JobRow
from tests.support.jobs import submit
from worker.records import RecordPump

PER_SECOND = 5_000
SECONDS = 10
TOTAL = PER_SECOND * SECONDS


def main(options: list[str]) -> None:
    with service() as bench:
        job_id = submit(bench.services)
        start_attempt(bench, job_id)
        path = bench.services.settings.home / "events.jsonl"
        seen: list[tuple[int, float]] = []
        watcher = threading.Thread(target=watch, args=(bench, job_id, seen))
        watcher.start()
        done = threading.Event()
        pump_thread = threading.Thread(target=pump, args=(bench, job_id, path, done))
        pump_thread.start()
        write(path)
        watcher.join(120)
        done.set()
        pump_thread.join()
        steps = [step for step, _ in seen]
        save(
            "events",
            {
                "written_per_second": PER_SECOND,
                "written": TOTAL,
                "arrived": len(steps),
                "in_order_without_gap": steps == list(range(1, TOTAL + 1)),
                "in_database": stored(bench, job_id),
                "delay_s": spread([delay for _, delay in seen]),
            },
        )


def start_attempt(bench: Bench, job_id: str) -> None:
    """Put the job into its first attempt, as a planner and a worker would."""
    with bench.services.database.write() as session:
        values: dict[str, Any] = {
            "state": "starting",
            "attempt": 1,
            "host_id": "bench",
            "lease_until": time.time() + 3600,
        }
        session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))
        session.add(AttemptRow(job_id=job_id, attempt=1, host_id="bench", device_ids=[], placed_at=time.time()))


def write(path: Path) -> None:
    """The trainer's side: PER_SECOND records a second, each line one write."""
    began = time.monotonic()
    with path.open("ab", buffering=0) as file:
        for step in range(1, TOTAL + 1):
            data = {"step": step, "max_steps": TOTAL, "metrics": {"loss": 1.0 / step}}
            record = {"time": time.time(), "type": "metrics", "level": "info", "message": "", "data": data}
            file.write(json.dumps(record).encode() + b"\n")
            ahead = step / PER_SECOND - (time.monotonic() - began)
            if ahead > 0.005:
                time.sleep(ahead)


def pump(bench: Bench, job_id: str, path: Path, done: threading.Event) -> None:
    """The worker's side, at the supervisor's pace."""
    services = bench.services
    attempts = AttemptService(services.database, services.events, services.publisher, services.settings)
    follower = RecordPump(path, job_id, 1, attempts)
    while not done.wait(0.1):
        follower.pump()


def watch(bench: Bench, job_id: str, seen: list[tuple[int, float]]) -> None:
    """A client's side: each metric's delay from the trainer's clock to here."""
    headers = {"Accept": "text/event-stream"}
    with bench.client() as client, client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue
            now = time.time()
            event = json.loads(line[6:])
            if event["type"] != "metrics":
                continue
            seen.append((event["data"]["step"], now - parse(event["time"])))
            if event["data"]["step"] == TOTAL:
                return


def parse(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def stored(bench: Bench, job_id: str) -> int:
    from tests.support.jobs import ADMIN

    (series,) = bench.services.jobs.metrics(job_id, ADMIN, ["loss"])
    return len(series["points"])
