"""Random states of a box for the tests of the policy: consistent, small, with every kind of job and device."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from opensloth.scheduling.types import Account, Device, QueuedJob, Rules, Running, Usage

GIB = 2**30
NOW = 1_000_000.0


@dataclass(frozen=True)
class World:
    """The arguments of `plan`."""

    queue: list[QueuedJob]
    devices: list[Device]
    running: list[Running]
    usage: Usage
    now: float = NOW
    rules: Rules = field(default_factory=Rules)


def random_world(
    seed: int, queued: int, running: int, *, owners: int = 4, quotas: bool = True, tidy: bool = False
) -> World:
    """`tidy` leaves out what makes ends uncertain or devices unusable."""
    rng = random.Random(seed)
    devices = _devices(rng, tidy)
    jobs = [_queued(rng, number, owners, tidy) for number in range(queued)]
    active: list[Running] = []
    for number in range(running):
        found = _running(rng, number, owners, devices, active, tidy)
        if found is not None:
            active.append(found)
    return World(jobs, devices, active, _usage(rng, owners, quotas))


def capacity(device: Device, rules: Rules) -> float:
    return device.memory * (1 - rules.memory_margin) - device.foreign


def clean(device: Device, rules: Rules) -> bool:
    return device.foreign <= device.memory * rules.memory_margin


def holdable(job: QueuedJob, devices: list[Device], rules: Rules) -> bool:
    """Whether some host could hold the job if nothing ran."""
    need = job.memory or 0
    able = [d for d in devices if d.usable and capacity(d, rules) >= need and (clean(d, rules) or not job.whole)]
    return any(sum(d.host_id == host for d in able) >= job.devices for host in {d.host_id for d in devices})


def _devices(rng: random.Random, tidy: bool) -> list[Device]:
    devices = []
    for host in range(rng.randint(1, 3)):
        for index in range(rng.choice((1, 2, 4, 8))):
            foreign = 0 if tidy else rng.choice((0, 0, 0, 1 * GIB, 30 * GIB))
            usable = tidy or rng.random() < 0.9
            devices.append(Device(f"h{host}:{index}", f"h{host}", index, rng.choice((24, 80)) * GIB, foreign, usable))
    return devices


def _queued(rng: random.Random, number: int, owners: int, tidy: bool) -> QueuedJob:
    expected = rng.choice((None, rng.uniform(30, 20_000), rng.uniform(30, 2_000)))
    owner = rng.randrange(owners)
    return QueuedJob(
        f"q{number:03d}",
        f"user-{owner}",
        rng.choice((0, 1, 1, 1, 2, 3)),
        NOW - rng.uniform(0, 30_000) * rng.choice((1, 1, 5)),
        rng.choice((1, 1, 1, 2, 3, 4, 8)),
        not_before=None if tidy else rng.choice((None, None, None, NOW - 5, NOW + 50)),
        team=f"team-{owner % 2}",
        memory=rng.choice((None, rng.randrange(2 * GIB, 70 * GIB), rng.randrange(2 * GIB, 20 * GIB))),
        exclusive=rng.random() < 0.15,
        expected_s=expected if not tidy else expected or 500.0,
        time_limit_s=rng.choice((None, None, rng.uniform(60, 10_000))),
        own_rank=rng.choice((0, 0, 0, 1, -1)),
    )


def _running(
    rng: random.Random, number: int, owners: int, devices: list[Device], active: list[Running], tidy: bool
) -> Running | None:
    memory = rng.choice((None, rng.randrange(2 * GIB, 18 * GIB), rng.randrange(2 * GIB, 60 * GIB)))
    fitting = [device for device in devices if _fits(device, memory, active)]
    if not fitting:
        return None
    host = rng.choice(fitting).host_id
    same_host = [device.id for device in fitting if device.host_id == host]
    chosen = tuple(sorted(rng.sample(same_host, rng.randint(1, min(4, len(same_host))))))
    owner = rng.randrange(owners)
    started = NOW - rng.uniform(0, 5_000)
    end = rng.choice((None, NOW + rng.uniform(-100, 8_000))) if not tidy else NOW + rng.uniform(1, 8_000)
    return Running(
        f"r{number:03d}",
        chosen,
        f"user-{owner}",
        f"team-{owner % 2}",
        rng.choice((0, 1, 1, 2)),
        started,
        memory,
        end,
        preemptible_from=started + rng.choice((0, 600, 3600)),
        promised_end=None if tidy else rng.choice((None, None, NOW - 10, NOW + 10)),
        stopping=not tidy and rng.random() < 0.1,
    )


def _fits(device: Device, memory: int | None, active: list[Running]) -> bool:
    there = [job for job in active if device.id in job.device_ids]
    if memory is None or any(job.memory is None for job in there):
        return not there
    room = capacity(device, Rules()) - sum(job.memory or 0 for job in there)
    return len(there) < Rules().max_sharers and memory <= room


def _usage(rng: random.Random, owners: int, quotas: bool) -> Usage:
    def account() -> Account:
        used = Account(rng.choice((0.0, rng.uniform(0, 1e6))), rng.choice((1.0, 1.0, 2.0)))
        if not quotas:
            return used
        return replace(
            used, max_devices=rng.choice((None, 1, 2, 4, 8)), device_s_left=rng.choice((None, None, 5.0, 0.0))
        )

    return Usage({f"user-{i}": account() for i in range(owners)}, {f"team-{i}": account() for i in range(2)})
