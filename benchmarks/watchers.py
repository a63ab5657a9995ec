"""500 watchers of 20 running jobs, each closed and opened again at random, while others submit jobs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.events import parse, start_attempt
from benchmarks.support import Bench, percentile, save, service, spread
from opensloth.jobs.attempts import AttemptService
from tests.support.jobs import add_file, body, submit
from worker.records import RecordPump

STEP = re.compile(rb'"step":(\d+)')


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--per-second", type=int, default=20, help="events of each job")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args(arguments)
    with service() as bench:
        result = watched(bench, options.watchers, options.jobs, options.per_second, options.seconds)
    save("watchers", vars(options) | result)


def watched(bench: Bench, watchers: int, jobs: int, per_second: int, seconds: int) -> dict[str, Any]:
    """Runs it on a box of its own; what the watchers saw, what it took in memory, and how long submissions took."""
    ids = [submit(bench.services, name=f"job {number}") for number in range(jobs)]
    for job_id in ids:
        start_attempt(bench, job_id)
    api = psutil.Process(bench.api.pid)
    before, spent = api.memory_info().rss, cpu_s(api)
    steps = per_second * seconds
    place = {"url": bench.url, "key": bench.key}
    posted = body(bench.services, add_file(bench.services), "n=0")
    crowd = running("watch_all", **place, jobs=ids, watchers=watchers, steps=steps)
    with crowd as clients, running("submit_all", **place, posted=posted, seconds=seconds) as submitter:
        mine = time.process_time()
        with sampled(api) as sizes:
            began = time.monotonic()
            write(bench, ids, per_second, seconds)
            spread_over, used = time.monotonic() - began, {"api": cpu_s(api) - spent}
            used |= {"watchers": cpu_s(psutil.Process(clients.pid)), "writer": time.process_time() - mine}
            told = told_by(clients, 120)
        posts = told_by(submitter, 120)
    delays = told["delays"]
    return {
        "events_per_watcher": steps,
        "watchers_that_saw_each_once_in_order": sum(told["whole"]),
        "reconnects": sum(told["reconnects"]),
        "delay_s": {"p50": round(percentile(delays, 50), 3), "p99": round(percentile(delays, 99), 3)},
        "api_memory_mb": {"before": before // 2**20, "most": max(sizes) // 2**20, "after": sizes[-1] // 2**20},
        "post_ms": spread(posts),
        "written_in_s": round(spread_over, 1),
        "cores_used": {name: round(value / spread_over, 2) for name, value in used.items()},
    }


def cpu_s(process: psutil.Process) -> float:
    """Seconds of CPU that it has had."""
    times = process.cpu_times()
    return times.user + times.system


def write(bench: Bench, ids: list[str], per_second: int, seconds: int) -> None:
    """The trainers and the worker of all jobs: lines appended, and pumped at the supervisor's pace."""
    services = bench.services
    attempts = AttemptService(services.database, services.events, services.publisher, services.settings)
    paths = {job_id: services.settings.home / f"{job_id}.jsonl" for job_id in ids}
    pumps = [RecordPump(path, job_id, 1, attempts) for job_id, path in paths.items()]
    began = time.monotonic()
    for step in range(1, per_second * seconds + 1):
        for path in paths.values():
            append(path, step, per_second * seconds)
        ahead = step / per_second - (time.monotonic() - began)
        if ahead > 0:
            time.sleep(ahead)
        if step % max(1, per_second // 10) == 0:
            for pump in pumps:
                pump.pump()
    for pump in pumps:
        pump.pump()


def append(path: Path, step: int, last: int) -> None:
    record = {"time": time.time(), "type": "metrics", "level": "info", "message": ""}
    with path.open("ab") as file:
        file.write(
            json.dumps(record | {"data": {"step": step, "max_steps": last, "metrics": {"loss": 1.0 / step}}}).encode()
            + b"\n"
        )


@contextlib.contextmanager
def running(function: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A function of this module in a process of its own, which prints what it returns as JSON."""
    command = [sys.executable, "-m", "benchmarks.watchers", function, json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def told_by(process: subprocess.Popen[str], timeout_s: float) -> Any:
    answer = process.communicate(timeout=timeout_s)[0]
    if process.returncode:
        raise RuntimeError(f"a client failed with status {process.returncode}")
    return json.loads(answer)


def submit_all(url: str, key: str, posted: dict[str, Any], seconds: int) -> list[float]:
    """Milliseconds of submissions, five a second."""
    taken: list[float] = []
    until = time.monotonic() + seconds
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        client.post("/v1/jobs", json=posted).raise_for_status()  # connects, and imports what others find imported
        while time.monotonic() < until:
            began = time.perf_counter()
            client.post("/v1/jobs", json=posted | {"name": f"n={len(taken)}"}).raise_for_status()
            taken.append((time.perf_counter() - began) * 1e3)
            time.sleep(0.2)
    return taken


@contextlib.contextmanager
def sampled(process: psutil.Process) -> Iterator[list[int]]:
    """Resident bytes of `process`, twice a second."""
    sizes = [process.memory_info().rss]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.5):
            sizes.append(process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join()


class Watcher:
    """A client that closes its stream at random and takes it up behind the last event that it has."""

    def __init__(self, url: str, key: str, job_id: str, steps: int, seed: int) -> None:
        place = urlsplit(url)
        self.host, self.port = place.hostname, place.port
        self.key, self.job_id, self.steps = key, job_id, steps
        self.rng = random.Random(seed)
        self.seqs: list[int] = []
        self.seen: list[int] = []
        self.delays: list[float] = []
        self.reconnects = -1
        self.fresh = False
        """Whether the next event is one that just happened, not the first of those that were missed meanwhile."""

    async def run(self) -> None:
        while not self.seen or self.seen[-1] < self.steps:
            self.reconnects += 1
            self.fresh = False
            reader, writer = await asyncio.open_connection(self.host, self.port, limit=2**20)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.rng.expovariate(1 / 15)):
                    await self.read(reader, writer)
            writer.close()
            await asyncio.sleep(self.rng.uniform(0, 0.5))

    async def read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = [f"GET /v1/jobs/{self.job_id}/events HTTP/1.1", "Host: box", "Accept: text/event-stream"]
        head += [f"Authorization: Bearer {self.key}"]
        head += [f"Last-Event-ID: {self.seqs[-1]}"] if self.seqs else []
        writer.write("\r\n".join([*head, "", ""]).encode())
        seq = 0
        while line := await reader.readline():
            if line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                raise RuntimeError(line.decode())
            if line.startswith(b"id: "):
                seq = int(line[4:])
            elif line.startswith(b"data: "):
                self.take(seq, line)
                if self.seen and self.seen[-1] >= self.steps:
                    return

    def take(self, seq: int, line: bytes) -> None:
        self.seqs.append(seq)
        found = STEP.search(line)  # reading all of the JSON would cost this process more than it costs the API
        if found is None:
            return
        step = int(found[1])
        self.seen.append(step)
        if self.fresh and step % 20 == 0:
            self.delays.append(time.time() - parse(json.loads(line[6:])["time"]))
        self.fresh = True

    def whole(self) -> bool:
        """Whether every event came once and in order."""
        return self.seen == list(range(1, self.steps + 1)) and self.seqs == list(range(1, len(self.seqs) + 1))


async def watch_all(url: str, key: str, jobs: list[str], watchers: int, steps: int) -> dict[str, Any]:
    """All watchers, spread over the jobs."""
    crowd = [Watcher(url, key, jobs[number % len(jobs)], steps, number) for number in range(watchers)]
    await asyncio.gather(*(watcher.run() for watcher in crowd))
    return {
        "whole": [watcher.whole() for watcher in crowd],
        "reconnects": [watcher.reconnects for watcher in crowd],
        "delays": [delay for watcher in crowd for delay in watcher.delays],
    }


if __name__ == "__main__":
    function, options = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(submit_all(**options) if function == "submit_all" else asyncio.run(watch_all(**options))))
