"""5,000 claims by 8 worker processes that all want each of them: how many a second are applied, and each once."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from benchmarks.plan import fill
from benchmarks.support import save
from migrations.__main__ import upgrade
from opensloth.devices.rows import DeviceLeaseRow, DeviceRow
from opensloth.events.rows import EventRow
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.jobs.transitions import Start, start_all
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.servers import fresh_postgres_database, postgres, valkey

LEASE_S = 3600.0


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=int, default=5_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--batch", type=int, default=100, help="claims that one planning round applies")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    result: dict[str, Any] = vars(options).copy()
    for kind in ("sqlite", "postgresql"):
        rounds = []
        for _ in range(options.rounds):
            with box(kind) as settings:
                rounds.append(race(settings, options.claims, options.processes, options.batch))
        result[kind] = sorted(rounds, key=lambda found: found["claims_per_s"])[len(rounds) // 2]
    save("claims", result)


@contextlib.contextmanager
def box(kind: str) -> Iterator[Settings]:
    """Settings of an empty box on a database of `kind`."""
    with tempfile.TemporaryDirectory(prefix="opensloth-bench-") as home, contextlib.ExitStack() as servers:
        settings = Settings(home=Path(home), host_timeout_s=LEASE_S, redis_url=servers.enter_context(valkey()))
        if kind == "postgresql":
            url = servers.enter_context(fresh_postgres_database(servers.enter_context(postgres())))
            settings = settings.model_copy(update={"database_url": url})
        upgrade(settings.database)
        yield settings


def race(settings: Settings, claims: int, processes: int, batch: int) -> dict[str, Any]:
    """Each process applies every claim, a batch a transaction, in an order of its own; one of them wins each."""
    services = Services.make(settings)
    fill(services, claims, 0, -(-claims // 8) * 8)
    with services.database.read() as session:
        jobs = session.scalars(select(JobRow.id).order_by(JobRow.id)).all()
        devices = session.execute(select(DeviceRow.id, DeviceRow.host_id).order_by(DeviceRow.id)).tuples().all()
    starts = [Start(job, host, (device,), None, None) for job, (device, host) in zip(jobs, devices, strict=False)]
    context = multiprocessing.get_context("spawn")
    gate, won = context.Barrier(processes + 1), context.Queue()
    workers = [
        context.Process(target=claim_all, args=(settings, starts, batch, seed, gate, won)) for seed in range(processes)
    ]
    for worker in workers:
        worker.start()
    gate.wait()
    began = time.monotonic()
    told = [won.get() for _ in workers]
    seconds = time.monotonic() - began
    for worker in workers:
        worker.join()
    found = audit(services)
    services.database.engine.dispose()
    return {
        "claims_per_s": round(claims / seconds),
        "seconds": round(seconds, 3),
        "won_by_each": told,
        **found,
        "each_once": found == {"starting": claims, "attempts": claims, "leases": claims, "events": claims}
        and sum(told) == claims,
    }


def claim_all(settings: Settings, starts: list[Start], batch: int, seed: int, gate: Any, won: Any) -> None:
    """A worker's side, without the planning: guarded updates under the scheduler's lock."""
    services = Services.make(settings)
    batches = [starts[at : at + batch] for at in range(0, len(starts), batch)]
    random.Random(seed).shuffle(batches)
    services.database.ping()
    gate.wait()
    mine = 0
    for claims in batches:
        with services.database.scheduler_lock() as session:
            mine += len(start_all(session, services.events, claims, LEASE_S))
    won.put(mine)


def audit(services: Services) -> dict[str, int]:
    """What the database says of it: rows of each kind."""
    with services.database.read() as session:
        started = select(func.count()).where(JobRow.state == "starting", JobRow.attempt == 1)
        return {
            "starting": session.scalar(started) or 0,
            "attempts": session.scalar(select(func.count()).select_from(AttemptRow)) or 0,
            "leases": session.scalar(select(func.count()).select_from(DeviceLeaseRow)) or 0,
            "events": session.scalar(select(func.count()).select_from(EventRow)) or 0,
        }
