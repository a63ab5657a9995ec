"""CPU time of one planning round with 10,000 queued jobs, 100 running and 512 devices: `python benchmarks/plan.py`."""

from __future__ import annotations

import argparse
import random
import time

from opensloth.scheduling.planner import plan
from opensloth.scheduling.types import Account, Device, QueuedJob, Running, Usage

GIB = 2**30
NOW = 1_800_000_000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--running", type=int, default=100)
    parser.add_argument("--devices", type=int, default=512, help="on hosts of eight")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rng = random.Random(1)
    devices = [Device(f"h{n // 8:02d}:{n % 8}", f"h{n // 8:02d}", n % 8, 80 * GIB) for n in range(options.devices)]
    queue = [queued(rng, number) for number in range(options.queued)]
    usage = Usage({f"user-{n}": Account(rng.uniform(0, 1e6)) for n in range(20)})
    running = start(rng, devices, options.running)
    report("most devices free", queue, devices, running, usage, options.rounds)
    placed = {placement.job_id: placement for placement in plan(queue, devices, running, usage, NOW).placements}
    running += [as_running(job, placed[job.id].device_ids) for job in queue if job.id in placed]
    report("no device free", [job for job in queue if job.id not in placed], devices, running, usage, options.rounds)


def report(
    name: str, queue: list[QueuedJob], devices: list[Device], running: list[Running], usage: Usage, rounds: int
) -> None:
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        result = plan(queue, devices, running, usage, NOW)
        taken.append(time.process_time() - began)
    taken.sort()
    print(
        f"{name}: {len(queue)} queued, {len(running)} running, {len(devices)} devices, "
        f"{len(result.placements)} placed: CPU {taken[0] * 1e3:.1f} ms, median {taken[len(taken) // 2] * 1e3:.1f} ms"
    )


def queued(rng: random.Random, number: int) -> QueuedJob:
    return QueuedJob(
        f"ftjob-{rng.randrange(16**8):08x}{number}",
        f"user-{rng.randrange(20)}",
        rng.choice((0, 1, 1, 1, 2)),
        NOW - rng.uniform(0, 80_000),
        rng.choice((1, 1, 1, 2, 4, 8)),
        team="team",
        memory=None if rng.random() < 0.4 else rng.randrange(4 * GIB, 70 * GIB),
        expected_s=rng.lognormvariate(8, 1),
    )


def start(rng: random.Random, devices: list[Device], count: int) -> list[Running]:
    """`count` jobs of one whole device each, spread evenly."""
    running = []
    for number in range(count):
        first = devices[number * len(devices) // count]
        ids = tuple(device.id for device in devices if device.host_id == first.host_id and device.index == first.index)
        began = NOW - rng.uniform(0, 10_000)
        end = NOW + rng.uniform(0, 10_000)
        running.append(Running(f"r{number:03d}", ids, f"user-{number % 20}", "team", 1, began, None, end, began + 600))
    return running


def as_running(job: QueuedJob, device_ids: tuple[str, ...]) -> Running:
    memory = None if job.whole else job.memory
    return Running(job.id, device_ids, job.owner, job.team, job.priority, NOW, memory, NOW + job.longest_s, NOW + 600)


if __name__ == "__main__":
    main()
