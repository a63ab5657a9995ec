"""Traces of jobs for the simulator: JSON lines, and a generated day of a team."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from opensloth.scheduling.types import Device, QueuedJob

GIB = 2**30
CLASSES = {"low": 0, "normal": 1, "high": 2, "urgent": 3}


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One line of a trace; seconds count from its beginning."""

    id: str
    user: str
    submit_s: float
    run_s: float
    """What it takes alone on its devices."""
    devices: int = 1
    team: str = ""
    priority: str = "normal"
    memory_gib: float | None = None
    """On each device; null takes whole devices."""
    exclusive: bool = False
    estimate_s: float | None = None
    """What was expected at submission; null if nobody knew."""
    time_limit_s: float | None = None
    load: float = 1.0
    """The part of a device that it keeps busy."""
    eta: float = 1.0
    """Its own estimate of the end while it runs, over the truth."""

    def queued(self) -> QueuedJob:
        """The job as the policy sees it."""
        return QueuedJob(
            self.id,
            self.user,
            CLASSES[self.priority],
            self.submit_s,
            self.devices,
            team=self.team,
            memory=None if self.memory_gib is None else int(self.memory_gib * GIB),
            exclusive=self.exclusive,
            expected_s=self.estimate_s,
            time_limit_s=self.time_limit_s,
        )


def read(path: Path) -> list[TraceJob]:
    """The jobs of a JSON lines file; raises ValueError that names the line at fault."""
    jobs = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                jobs.append(_checked(_job(json.loads(line))))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path.name}, line {number}: it is not JSON: {error.msg}") from error
            except ValueError as error:
                raise ValueError(f"{path.name}, line {number}: {error}") from error
    return jobs


def write(path: Path, jobs: Iterable[TraceJob]) -> None:
    """Writes a trace."""
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(asdict(job)) + "\n" for job in jobs)


def box(hosts: int = 1, devices: int = 8, memory_gib: float = 80.0) -> list[Device]:
    """Equal hosts with equal devices."""
    return [
        Device(f"host-{host}:{index}", f"host-{host}", index, int(memory_gib * GIB))
        for host in range(hosts)
        for index in range(devices)
    ]


def team_day(seed: int = 0, *, people: int = 10, device_hours: float = 140.0) -> list[TraceJob]:
    """A working day of a team on eight devices of 80 GiB, submitted within ten hours.

    Durations are log-normal; of ten jobs about six are small and can share a device, two need most of one, one or two
    take 2 or 4 and one in twenty takes all 8. People differ: the busiest submits some ten times as much as the
    laziest. `device_hours` is what all jobs take together, each alone on whole devices.
    """
    rng = random.Random(seed)
    weights = [rng.lognormvariate(0.0, 0.8) for _ in range(people)]
    drawn: list[TraceJob] = []
    hours = 0.0
    while hours < device_hours:
        job = _draw(rng, len(drawn), f"user-{rng.choices(range(people), weights)[0]}")
        hours += job.run_s * job.devices / 3600
        drawn.append(job)
    return sorted(drawn, key=lambda job: (job.submit_s, job.id))


def _draw(rng: random.Random, number: int, user: str) -> TraceJob:
    kind = rng.choices(("small", "large", "several", "all"), (60, 22, 14, 4))[0]
    median_min, devices = {
        "small": (20.0, 1),
        "large": (60.0, 1),
        "several": (60.0, rng.choice((2, 2, 4))),
        "all": (40.0, 8),
    }[kind]
    run_s = min(max(60.0, median_min * 60 * rng.lognormvariate(0.0, 1.0)), 12 * 3600.0)
    memory = {"small": rng.uniform(5, 18), "large": rng.uniform(30, 70)}.get(kind)
    return TraceJob(
        id=f"job-{number:04d}",
        user=user,
        # Most come in the late morning and the afternoon.
        submit_s=round(rng.betavariate(1.6, 1.8) * 10 * 3600, 1),
        run_s=round(run_s, 1),
        devices=devices,
        priority=rng.choices(("low", "normal", "high"), (10, 82, 8))[0],
        memory_gib=None if memory is None else round(memory, 1),
        estimate_s=round(run_s * rng.lognormvariate(0.0, 0.2), 1),
        load=round(rng.uniform(0.2, 0.35), 2) if kind == "small" else 0.9,
        eta=round(rng.lognormvariate(0.0, 0.05), 3),
    )


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
}


def _job(values: Any) -> TraceJob:
    """A line's job, whatever other fields it has."""
    needed = [field.name for field in fields(TraceJob) if field.default is MISSING]
    if not isinstance(values, dict):
        raise ValueError(f"a job is an object with {', '.join(needed)}")
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"{', '.join(missing)} must be there; a job has at least {', '.join(needed)}")
    known = {field.name: str(field.type) for field in fields(TraceJob) if field.name in values}
    for name, annotation in known.items():
        value, (kinds, words) = values[name], _KINDS[annotation.removesuffix(" | None")]
        if value is None and annotation.endswith(" | None"):
            continue
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{name} is {value!r}, not {words}")
        if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value!r}; it must be finite and not below 0")
    return TraceJob(**{name: values[name] for name in known})


def _checked(job: TraceJob) -> TraceJob:
    if job.priority not in CLASSES:
        raise ValueError(f"priority is {job.priority!r}, not one of {', '.join(CLASSES)}")
    if not (job.devices >= 1 and job.run_s > 0):
        raise ValueError("devices must be at least 1 and run_s above 0")
    return job
