"""What a queued job waits for, in words."""

from __future__ import annotations

from collections.abc import Callable

from opensloth.scheduling.forecast import Expectation
from opensloth.scheduling.types import QueuedJob

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def in_words(job: QueuedJob, expectation: Expectation, clock: Callable[[float], str], noun: str = "GPU") -> str:
    """One line, as "4 GPUs; 3 free; the fourth is expected at 14:20 from ftjob-...".

    `clock` writes a moment (seconds since 1970) as people read it; `noun` is what the box's devices are called.
    """
    wait = expectation.wait
    devices = f"{job.devices} {noun}{'' if job.devices == 1 else 's'}"
    match wait.code:
        case "impossible":
            return f"{devices} on one host, and no host in service can hold that"
        case "user_quota":
            return f"{devices}; the user's limit of devices at once is reached" + _expected(expectation, clock)
        case "team_quota":
            return f"{devices}; the team's limit of devices at once is reached" + _expected(expectation, clock)
        case "device_hours":
            then = f"; the next month begins at {clock(wait.at)}" if wait.at is not None else ""
            return f"{devices}; this month's device hours are used up{then}"
        case "retry":
            return f"the next try at {clock(wait.at or 0.0)}"
        case "preempting":
            return f"{devices}; {wait.job_id} is being stopped for it" + _expected(expectation, clock)
        case "devices":
            return f"{devices}; {wait.free} free" + _missing(job, expectation, clock)
        case "turn":
            ahead = expectation.position - 1
            return f"{devices}; {ahead} {'job is' if ahead == 1 else 'jobs are'} before it" + _expected(
                expectation, clock
            )
        case _:
            return f"{devices}; it is about to start"


def _missing(job: QueuedJob, expectation: Expectation, clock: Callable[[float], str]) -> str:
    start = expectation.wait.at if expectation.start is None else expectation.start
    if start is None:
        return ""
    giver = expectation.freed_by or expectation.wait.job_id
    source = f" from {giver}" if giver else ""
    missing = job.devices - expectation.wait.free
    if missing == 1 and job.devices <= len(ORDINALS):
        which = "it" if job.devices == 1 else f"the {ORDINALS[job.devices - 1]}"
        return f"; {which} is expected at {clock(start)}{source}"
    return f"; all are expected at {clock(start)}, the last{source}" if source else f"; expected at {clock(start)}"


def _expected(expectation: Expectation, clock: Callable[[float], str]) -> str:
    if expectation.start is None:
        return ""
    source = f", when {expectation.freed_by} ends" if expectation.freed_by else ""
    return f"; it is expected to start at {clock(expectation.start)}{source}"
