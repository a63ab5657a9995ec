"""Which running jobs to stop to a checkpoint, so that a blocked job of a higher class starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opensloth.scheduling.room import INFINITY, Host, Room, Spot
from opensloth.scheduling.types import QueuedJob, Running


def cheapest(
    room: Room, job: QueuedJob, running: Mapping[str, Running], now: float
) -> tuple[list[Running], list[Spot]] | None:
    """The victims that cost least and the devices that the job then has; None if no stopping lets it start.

    Cost: the highest class among them, the devices that they lose, and how long they have run. Every one of them is
    needed: with any one left alone the job would not fit.
    """
    stoppable = {job_id for job_id, other in running.items() if may_stop(other, job, now)}
    stopping = {job_id for job_id, other in running.items() if other.stopping}
    if any(_clearing(host, job, stopping) >= job.devices for host in room.hosts):
        return None
    options = []
    for host in room.hosts if stoppable else ():
        if not _fits(host, job, stoppable | stopping):
            continue
        tenants = {tenant.job_id for spot in host.spots for tenant in spot.tenants}
        victims = _needed(host, job, [running[job_id] for job_id in sorted(tenants & stoppable)], stopping)
        if victims:
            cost = (
                max(_rank(other, now) for other in victims),
                sum(len(other.device_ids) for other in victims),
                sum(now - other.started_at for other in victims),
                host.id,
            )
            options.append((cost, host, victims))
    if not options:
        return None
    _, host, victims = min(options, key=lambda option: option[0])
    gone = stopping | {other.job_id for other in victims}
    able = [spot for spot in host.spots if spot.would_take(job, gone)]
    able.sort(key=lambda spot: (not any(tenant.job_id in gone for tenant in spot.tenants), spot.index))
    return victims, able[: job.devices]


def may_stop(other: Running, job: QueuedJob, now: float) -> bool:
    """Whether `job` may take `other`'s devices: from a lower class after its minimum run time, or because it has
    stayed longer than it promised when it was let past; those that take turns, from each other, after a turn."""
    if other.stopping or (job.takes_turns and other.turn_ends is not None and now < other.turn_ends):
        return False
    return overstays(other, now) or (other.priority < job.priority and other.preemptible_from <= now)


def overstays(other: Running, now: float) -> bool:
    """Whether it has not gone by the time that it was let past another job for."""
    return other.promised_end is not None and other.promised_end <= now


def _rank(other: Running, now: float) -> int:
    return -1 if overstays(other, now) else other.priority


def _needed(host: Host, job: QueuedJob, candidates: Sequence[Running], stopping: set[str]) -> list[Running]:
    """Those without whom the job does not fit, the dearest spared first."""
    gone = stopping | {other.job_id for other in candidates}
    dearest = sorted(candidates, key=lambda o: (-o.priority, -len(o.device_ids), o.started_at, o.job_id))
    victims = []
    for other in dearest:
        if _fits(host, job, gone - {other.job_id}):
            gone.discard(other.job_id)
        else:
            victims.append(other)
    return victims


def _clearing(host: Host, job: QueuedJob, stopping: set[str]) -> int:
    """Devices that it will have once what is being stopped has gone, those left out that are kept for others."""
    return sum(spot.would_take(job, stopping) and spot.held_from == INFINITY for spot in host.spots)


def _fits(host: Host, job: QueuedJob, gone: set[str]) -> bool:
    return sum(spot.would_take(job, gone) for spot in host.spots) >= job.devices
