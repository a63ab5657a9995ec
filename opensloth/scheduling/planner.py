"""`plan`: what of the queue starts now, what is stopped for it, and why the rest waits."""

from __future__ import annotations

from collections.abc import Sequence

from opensloth.scheduling import preemption
from opensloth.scheduling.fairness import expected_end, order
from opensloth.scheduling.quotas import Quotas
from opensloth.scheduling.room import INFINITY, Room, Spot
from opensloth.scheduling.types import (
    Device,
    Placement,
    Plan,
    Preemption,
    QueuedJob,
    Reservation,
    Rules,
    Running,
    Usage,
    Wait,
)

NOBODY = Usage()
DEFAULT = Rules()


def plan(
    queue: Sequence[QueuedJob],
    devices: Sequence[Device],
    running: Sequence[Running],
    usage: Usage = NOBODY,
    now: float = 0.0,
    rules: Rules = DEFAULT,
) -> Plan:
    """One round: pure, and the same whatever the order of what is passed in.

    The first job in order that does not fit reserves the earliest moment at which it will; jobs behind it start now
    only on what it does not need then, or if they are gone by then. A blocked job of a higher class stops lower ones
    where that, and only that, lets it start; what is cleared for it is kept for it.
    """
    return _Round(devices, running, usage, now, rules).run(queue)


class _Round:
    """The state of one round."""

    def __init__(
        self, devices: Sequence[Device], running: Sequence[Running], usage: Usage, now: float, rules: Rules
    ) -> None:
        self.now, self.rules, self.usage = now, rules, usage
        self.running = sorted(running, key=lambda job: job.job_id)
        ends = {job.job_id: expected_end(job, now, rules) for job in self.running}
        self.room = Room(devices, rules, now)
        self.room.occupy(self.running, lambda job: ends[job.job_id])
        self.by_id = {job.job_id: job for job in self.running}
        self.largest = max((device.memory for device in devices), default=0)
        self.quotas = Quotas(usage, self.running, lambda job: ends[job.job_id], now)
        self.placements: list[Placement] = []
        self.preemptions: list[Preemption] = []
        self.reservation: Reservation | None = None
        self.waits: dict[str, Wait] = {}
        self.examined = 0
        self.lowest = min((job.priority for job in self.running), default=0)
        self.any_stopping = any(job.stopping for job in self.running)

    def run(self, queue: Sequence[QueuedJob]) -> Plan:
        """Goes through the queue once."""
        ordered = order(queue, self.running, self.usage, self.now, self.rules, self.largest)
        # Jobs run faster alone: they share devices only when the queue could use more than half of the empty ones.
        empties = self.room.empties
        spread = empties > 0 and sum(job.devices for job in ordered) <= empties / 2
        find, waits, now, limited = self.room.find, self.waits, self.now, self.quotas.any
        most = self.rules.examined
        turns = {count: Wait("turn", count) for count in {job.devices for job in ordered}}
        for job in ordered:
            if job.not_before is not None and job.not_before > now:
                waits[job.id] = Wait("retry", job.devices, at=job.not_before)
            elif limited and (over := self.quotas.wait(job)) is not None:
                waits[job.id] = over
            elif spots := find(job, spread=spread):
                self._place(job, spots)
            else:
                waits[job.id] = (self._examine(job) if self.examined < most else None) or turns[job.devices]
        return Plan(
            tuple(self.placements),
            tuple(self.preemptions),
            self.reservation,
            tuple(job.id for job in ordered),
            waits,
        )

    def _place(self, job: QueuedJob, spots: list[Spot]) -> None:
        seconds = job.longest_s if job.longest_s < INFINITY else self.rules.unknown_s
        held = [spot.held_from for spot in spots if spot.held_from < INFINITY]
        kept = min(held, default=INFINITY)
        promised = kept if self.now + job.longest_s <= kept < INFINITY else None
        self.room.place(job, spots, self.now + seconds)
        self.quotas.take(job, self.now + seconds)
        ids = tuple(spot.id for spot in sorted(spots, key=lambda spot: spot.index))
        self.placements.append(Placement(job.id, spots[0].host.id, ids, promised))

    def _examine(self, job: QueuedJob) -> Wait | None:
        """Reserves for the first blocked job; stops others for it where it may; None if it can do neither."""
        self.examined += 1
        if self.reservation is not None and job.priority <= self.lowest and not self.any_stopping:
            return None
        free = self.room.free_for(job)
        reservation = self.room.earliest(job)
        soon = reservation is not None and self._is_soon(reservation)
        if not soon and (found := preemption.cheapest(self.room, job, self.by_id, self.now)) is not None:
            victims, spots = found
            self.preemptions += [Preemption(victim.job_id, job.id) for victim in victims]
            for victim in victims:
                del self.by_id[victim.job_id]
            return self._hold(job, free, spots, victims[0].job_id)
        if reservation is None:
            return Wait("devices" if self.examined > 1 else "impossible", job.devices, free)
        if self.reservation is None or (soon and self._clearing(reservation)):
            self.room.hold(job, reservation.device_ids, reservation.start)
            self.reservation = self.reservation or reservation
        return Wait("devices", job.devices, free, reservation.start, reservation.waits_for)

    def _hold(self, job: QueuedJob, free: int, spots: list[Spot], first_victim: str) -> Wait:
        start = self.now + self.rules.stop_s
        ids = tuple(spot.id for spot in sorted(spots, key=lambda spot: spot.index))
        self.room.hold(job, ids, start)
        self.reservation = self.reservation or Reservation(job.id, spots[0].host.id, ids, start, first_victim)
        return Wait("preempting", job.devices, free, start, first_victim)

    def _is_soon(self, reservation: Reservation) -> bool:
        last = self.by_id.get(reservation.waits_for or "")
        late = last is not None and not last.stopping and preemption.overstays(last, self.now)
        return not late and reservation.start <= self.now + self.rules.worth_preempting_s

    def _clearing(self, reservation: Reservation) -> bool:
        """Whether devices are being cleared there: for this job, then, as it is next in order for them."""
        tenants = (tenant for device_id in reservation.device_ids for tenant in self.room.spots[device_id].tenants)
        return any(self.by_id[tenant.job_id].stopping for tenant in tenants if tenant.job_id in self.by_id)
