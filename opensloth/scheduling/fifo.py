"""First come, first served with whole devices: what a box without a policy does, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opensloth.scheduling.fairness import expected_end
from opensloth.scheduling.room import INFINITY, Room
from opensloth.scheduling.types import Device, Placement, Plan, QueuedJob, Rules, Running, Usage, Wait


def fifo(
    queue: Sequence[QueuedJob],
    devices: Sequence[Device],
    running: Sequence[Running],
    usage: Usage,
    now: float,
    rules: Rules,
) -> Plan:
    """One round: jobs start by age on whole devices, and none passes one that does not fit."""
    room = Room(devices, rules, now)
    room.occupy([replace(job, memory=None) for job in running], lambda job: expected_end(job, now, rules))
    ordered = sorted(queue, key=lambda job: (job.queued_at, job.id))
    placements = []
    for job in ordered:
        spots = room.find(replace(job, exclusive=True), spread=False)
        if spots is None:
            break
        room.place(replace(job, exclusive=True), spots, INFINITY)
        placements.append(Placement(job.id, spots[0].host.id, tuple(spot.id for spot in spots)))
    waits = {job.id: Wait("turn", job.devices) for job in ordered[len(placements) :]}
    return Plan(tuple(placements), (), None, tuple(job.id for job in ordered), waits)
