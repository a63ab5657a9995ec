"""Planning with 10,000 queued jobs, 100 running and 512 devices, and a submission to its trainer's process."""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import delete, insert, select

from benchmarks.support import Bench, save, service, spread
from migrations.__main__ import upgrade
from opensloth.accounts.rows import UsageRow
from opensloth.database import db_now
from opensloth.devices.rows import DeviceLeaseRow, DeviceRow, HostRow
from opensloth.events.rows import EventCounterRow
from opensloth.jobs.planning import plan_round
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.jobs.situation import Situation, read_situation
from opensloth.jobs.snapshot import Snapshot
from opensloth.scheduling.planner import plan
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import add_file, add_model, body
from tests.support.servers import valkey
from tests.support.workers import running_worker

GIB = 2**30
USERS = 20


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--running", type=int, default=100)
    parser.add_argument("--devices", type=int, default=512, help="on hosts of eight")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--submissions", type=int, default=40)
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {"unit": "ms", "queued": options.queued, "running": options.running}
    result["devices"] = options.devices
    result |= rounds(options.queued, options.running, options.devices, options.rounds)
    with service() as bench:
        result |= submissions(bench, options.submissions)
    save("plan", result)


def rounds(queued: int, running: int, devices: int, count: int) -> dict[str, Any]:
    """A round on a database of its own: its parts, all of it, and the same once no device is free."""
    with tempfile.TemporaryDirectory(prefix="opensloth-bench-") as home, valkey() as redis_url:
        settings = Settings(home=Path(home), host_timeout_s=3600.0, redis_url=redis_url)
        upgrade(settings.database)
        services = Services.make(settings)
        fill(services, queued, running, devices)
        seen = read(services)
        free = {
            "plan": timed(count, lambda: plan_of(seen)),
            "plan_cpu": timed(count, lambda: plan_of(seen), time.thread_time),
            "read": timed(count, lambda: read(services)),
        }
        placed, whole, cpu = [], [], []
        for _ in range(count):
            began, cpu_began = time.perf_counter(), time.thread_time()
            placed.append(round_of(services))
            whole.append((time.perf_counter() - began) * 1e3)
            cpu.append((time.thread_time() - cpu_began) * 1e3)
            put_back(services)
        free |= {"read_plan_and_apply": summary(whole), "read_plan_and_apply_cpu": summary(cpu), "placed": placed[0]}
        round_of(services)
        full = read(services)
        busy = {
            "plan": timed(count, lambda: plan_of(full)),
            "read_and_plan": timed(count, lambda: round_of(services)),
            "forecast": timed(3, lambda: Snapshot.of(full)),
        }
        services.database.engine.dispose()
    return {"most_devices_free": free, "no_device_free": busy}


def timed(count: int, what: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    taken = []
    for _ in range(count):
        began = clock()
        what()
        taken.append((clock() - began) * 1e3)
    return summary(taken)


def summary(taken: Sequence[float]) -> dict[str, float]:
    """The least is what the work needs; the others tell of the machine's other work too."""
    return {"min": round(min(taken), 3), **spread(taken)}


def read(services: Services) -> Situation:
    with services.database.read() as session:
        return read_situation(session, services.settings)


def plan_of(seen: Situation) -> object:
    return plan(seen.queue, seen.devices, seen.running, seen.usage, seen.now, seen.rules)


def round_of(services: Services) -> int:
    return plan_round(services.database, services.events, services.publisher, services.settings)


def put_back(services: Services) -> None:
    """Queues again what the round has placed."""
    with services.database.write() as session:
        placed = select(JobRow.id).where(JobRow.state == "starting", JobRow.attempt == 1)
        session.execute(delete(DeviceLeaseRow).where(DeviceLeaseRow.job_id.in_(placed)))
        session.execute(delete(AttemptRow).where(AttemptRow.job_id.in_(placed)))
        moved = JobRow.__table__.update().where(JobRow.state == "starting", JobRow.attempt == 1)
        session.execute(moved.values(state="queued", attempt=0))


def fill(services: Services, queued: int, running: int, devices: int) -> None:
    rng = random.Random(1)
    with services.database.write() as session:
        now = session.scalar(select(db_now())) or 0.0
        hosts = [f"h{n:02d}" for n in range(devices // 8)]
        session.execute(
            insert(HostRow), [{"id": host, "seen_at": now, "draining": False, "facts": {}} for host in hosts]
        )
        session.execute(insert(DeviceRow), [device(host, index) for host in hosts for index in range(8)])
        days = [(f"user-{n}", int(now // 86400) - day) for n in range(USERS) for day in range(14)]
        used = [{"owner": owner, "team": "default", "day": day, "device_s": rng.uniform(0, 1e5)} for owner, day in days]
        session.execute(insert(UsageRow), used)
        jobs = [job(rng, n, now, "queued") for n in range(queued)] + [
            job(rng, n, now, "running") for n in range(running)
        ]
        session.execute(insert(JobRow), jobs)
        session.execute(insert(EventCounterRow), [{"job_id": made["id"], "last_seq": 1} for made in jobs])
        if not running:
            return
        active = [
            made | {"device": f"{hosts[n % len(hosts)]}:{n // len(hosts)}"} for n, made in enumerate(jobs[queued:])
        ]
        session.execute(insert(AttemptRow), [attempt(made, now - rng.uniform(0, 10_000)) for made in active])
        leases = [{"device_id": made["device"], "job_id": made["id"], "attempt": 2} for made in active]
        session.execute(insert(DeviceLeaseRow), leases)


def device(host: str, index: int) -> dict[str, Any]:
    row = {"id": f"{host}:{index}", "host_id": host, "kind": "cuda", "index": index, "name": "80 GiB"}
    return row | {"memory_bytes": 80 * GIB, "foreign_bytes": 0, "processes": []}


def job(rng: random.Random, number: int, now: float, state: str) -> dict[str, Any]:
    running = state == "running"
    return {
        "id": f"ftjob-{rng.randrange(16**16):016x}{number:08d}",
        "name": "bench",
        "owner": f"user-{rng.randrange(USERS)}",
        "state": state,
        "spec": {},
        "schema_version": 1,
        "user_metadata": {},
        "priority": rng.choice((0, 1, 1, 1, 2)),
        "device_count": 1 if running else rng.choice((1, 1, 1, 2, 4, 8)),
        "memory_bytes": None if rng.random() < 0.4 else rng.randrange(4 * GIB, 70 * GIB),
        "expected_s": rng.lognormvariate(8, 1),
        "max_retries": 0,
        "model_id": "tiny",
        "attempt": 2 if running else 0,
        "created_at": now,
        "queued_at": now - rng.uniform(0, 80_000),
        "progress": {"eta_s": rng.uniform(0, 10_000), "at": now} if running else None,
    }


def attempt(made: dict[str, Any], placed_at: float) -> dict[str, Any]:
    ids = {"job_id": made["id"], "attempt": 2, "host_id": made["device"].split(":")[0], "device_ids": [made["device"]]}
    return ids | {"placed_at": placed_at, "records_read": 0, "processes": []}


def submissions(bench: Bench, count: int) -> dict[str, Any]:
    """From sending a job to the start of its trainer's process, each on a free device, with nothing polled."""
    home = bench.services.settings.home
    quiet = {"poll_s": 60.0, "devices": "cpu:4", "trainer_module": "tests.support.fake_trainer"}
    settings = bench.services.settings.model_copy(update=quiet)
    add_model(bench.services)
    dataset = add_file(bench.services)
    posts, spawns, offset = [], [], start_time_offset()
    with running_worker(settings, home), bench.client() as client:
        wait_for_host(bench)
        for number in range(count + 3):
            posted = {"json": body(bench.services, dataset, f"steps=3 n={number}")}
            began = time.time()
            job_id = client.post("/v1/jobs", **posted).raise_for_status().json()["id"]
            answered = time.time()
            wait_for_end(client, job_id)
            if number >= 3:  # the first ones connect, and import what others find imported
                posts.append((answered - began) * 1e3)
                spawns.append((spawned_at(bench, job_id) - offset - began) * 1e3)
    return {"post": summary(posts), "post_to_process": summary(spawns)}


def start_time_offset() -> float:
    """What the recorded start times of processes are off by: the kernel counts them from a boot time in seconds."""
    offsets = []
    for _ in range(9):
        began = time.time()
        with subprocess.Popen(["sleep", "0"]) as process:
            offsets.append(psutil.Process(process.pid).create_time() - (began + time.time()) / 2)
    return statistics.median(offsets)


def wait_for_host(bench: Bench) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with bench.services.database.read() as session:
            if session.scalar(select(HostRow.id)) is not None:
                time.sleep(2.0)  # Celery's consumer comes up after the host
                return
        time.sleep(0.2)
    raise RuntimeError("the worker did not come up")


def wait_for_end(client: httpx.Client, job_id: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (state := client.get(f"/v1/jobs/{job_id}").json()["state"]) == "succeeded":
            return
        if state in ("failed", "cancelled"):
            raise RuntimeError(f"{job_id} {state}")
        time.sleep(0.25)
    raise RuntimeError(f"{job_id} did not end")


def spawned_at(bench: Bench, job_id: str) -> float:
    with bench.services.database.read() as session:
        processes = session.scalar(select(AttemptRow.processes).where(AttemptRow.job_id == job_id)) or []
    return float(min(process["started"] for process in processes))
