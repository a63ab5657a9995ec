"""The box during a planning round: what is free on each device now, and what is kept for the job that is next."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from opensloth.scheduling.types import Device, QueuedJob, Reservation, Rules, Running

INFINITY = float("inf")


class Tenant(NamedTuple):
    """A job on a device; `memory` in bytes, None if it holds the device whole."""

    end: float
    memory: int | None
    job_id: str


@dataclass(slots=True, eq=False)
class Spot:
    """A device and what is left of it."""

    id: str
    host: Host
    index: int
    usable: bool
    clean: bool
    """No foreign process worth speaking of, so that a job may have it whole."""
    capacity: float
    """Bytes for our jobs, the margin and foreign processes taken off."""
    places: int
    """How many jobs it may hold at once."""
    free: float = 0.0
    closed: bool = False
    """Held whole."""
    tenants: list[Tenant] = field(default_factory=list)
    held_from: float = INFINITY
    """When the job comes for which this device is kept."""
    spare: float = 0.0
    """Bytes beside that job that others may keep after it has come."""
    spare_places: int = 0

    def takes_at(self, job: QueuedJob, now: float) -> float:
        """When the job could start here, others ending as expected; never (infinity) where it is kept for another."""
        if not self._suits(job):
            return INFINITY
        left = sorted(self.tenants)
        if left and job.whole:
            return left[-1].end
        at = now
        while left and not self._has_room(job, left):
            at = left.pop(0).end
        return at

    def would_take(self, job: QueuedJob, gone: set[str]) -> bool:
        """Whether the job could start here if the jobs in `gone` were not there."""
        if not self._suits(job):
            return False
        left = [tenant for tenant in self.tenants if tenant.job_id not in gone]
        return not left or (not job.whole and self._has_room(job, left))

    @property
    def is_empty(self) -> bool:
        """Whether a job may have it whole now."""
        return self.usable and self.clean and not self.tenants

    def add(self, tenant: Tenant) -> None:
        """Puts a job here."""
        self.tenants.append(tenant)
        if tenant.memory is None:
            self.closed = True
        else:
            self.free -= tenant.memory
            if tenant.end > self.held_from:
                self.spare -= tenant.memory
                self.spare_places -= 1

    def hold(self, job: QueuedJob, start: float) -> None:
        """Keeps the device for the job that comes at `start`."""
        self.held_from = start
        staying = [tenant.memory or 0 for tenant in self.tenants if tenant.end > start]
        self.spare = self.capacity - sum(staying) - (job.memory or 0)
        self.spare_places = 0 if job.whole else self.places - len(staying) - 1

    def _suits(self, job: QueuedJob) -> bool:
        """Whether the job could start here if nothing of ours ran."""
        fits = self.usable and self.held_from == INFINITY and (job.memory or 0) <= self.capacity
        return fits and (self.clean or not job.whole)

    def _has_room(self, job: QueuedJob, others: Sequence[Tenant]) -> bool:
        """Whether a job that shares fits beside these."""
        if len(others) >= self.places or any(tenant.memory is None for tenant in others):
            return False
        return (job.memory or 0) <= self.capacity - sum(tenant.memory or 0 for tenant in others)


@dataclass(slots=True, eq=False)
class Host:
    """A host's devices, and what they have at the most, so that most hosts need no closer look."""

    id: str
    spots: list[Spot] = field(default_factory=list)
    empties: int = 0
    most_free: float = -1.0
    most_free_used: float = -1.0
    """The same of devices with jobs on them."""

    def count(self) -> None:
        """Brings the summary up to date."""
        self.empties = sum(spot.is_empty for spot in self.spots)
        self.most_free = self.most_free_used = -1.0
        for spot in self.spots:
            if spot.usable and not spot.closed and len(spot.tenants) < spot.places:
                self.most_free = max(self.most_free, spot.free)
                if spot.tenants:
                    self.most_free_used = max(self.most_free_used, spot.free)

    def able_whole(self, need: float, end: float) -> list[Spot]:
        """Devices that a job of `need` bytes may have whole now, if it goes at `end`."""
        return [
            spot
            for spot in self.spots
            if not spot.tenants and spot.usable and spot.clean and spot.capacity >= need and end <= spot.held_from
        ]

    def able(self, need: float, end: float) -> list[Spot]:
        """Devices that a job of `need` bytes which shares may start on now, if it goes at `end`."""
        return [
            spot
            for spot in self.spots
            if need <= spot.free
            and spot.usable
            and not spot.closed
            and len(spot.tenants) < spot.places
            and (end <= spot.held_from or (need <= spot.spare and spot.spare_places > 0))
        ]


class Room:
    """All hosts; it only ever gets fuller within a round."""

    def __init__(self, devices: Iterable[Device], rules: Rules, now: float) -> None:
        self.now = now
        self.spots: dict[str, Spot] = {}
        hosts: dict[str, Host] = {}
        for device in sorted(devices, key=lambda device: (device.host_id, device.index, device.id)):
            host = hosts.setdefault(device.host_id, Host(device.host_id))
            spot = _spot(device, host, rules)
            host.spots.append(spot)
            self.spots[device.id] = spot
        self.hosts = list(hosts.values())
        self._failed: dict[tuple[bool, int], list[tuple[float, float]]] = defaultdict(list)

    def occupy(self, running: Iterable[Running], end_of: Callable[[Running], float]) -> None:
        """Puts the running jobs where they are."""
        for job in running:
            tenant = Tenant(end_of(job), job.memory, job.job_id)
            for device_id in job.device_ids:
                if device_id in self.spots:
                    self.spots[device_id].add(tenant)
        self.count()

    def count(self) -> None:
        """Brings all summaries up to date."""
        for host in self.hosts:
            host.count()
        self.hosts.sort(key=_fullness)
        self._sum_up()

    def _sum_up(self) -> None:
        self.most_empties = self.hosts[-1].empties if self.hosts else 0
        self.most_free = max(map(attrgetter("most_free"), self.hosts), default=-1.0)

    @property
    def empties(self) -> int:
        """Devices that nothing runs on."""
        return sum(host.empties for host in self.hosts)

    def find(self, job: QueuedJob, *, spread: bool) -> list[Spot] | None:
        """Devices of one host for the job now, or None.

        Hosts and devices that are used already come first, so that whole ones stay whole for jobs that need them;
        the other way round with `spread`, when there is plenty and jobs run faster alone.
        """
        need = job.memory or 0
        whole = job.exclusive or job.memory is None
        if job.devices > self.most_empties if whole else need > self.most_free:
            return None
        longest = job.longest_s
        failed = self._failed[whole, job.devices]
        for memory, seconds in failed:
            if memory <= need and seconds <= longest:
                return None
        spots = self._search(job, self.now + longest, spread)
        if spots is None:
            failed[:] = [point for point in failed if point[0] < need or point[1] < longest]
            failed.append((need, longest))
        return spots

    def _search(self, job: QueuedJob, end: float, spread: bool) -> list[Spot] | None:
        count, need = job.devices, job.memory or 0
        if job.whole:
            for host in self.hosts:
                if host.empties >= count and len(spots := host.able_whole(need, end)) >= count:
                    return sorted(spots, key=_tight)[:count]
            return None
        if not spread:
            for host in self.hosts:
                if host.most_free_used >= need:
                    spots = [spot for spot in host.able(need, end) if spot.tenants]
                    if len(spots) >= count:
                        return sorted(spots, key=_tight)[:count]
        for host in reversed(self.hosts) if spread else self.hosts:
            if host.most_free >= need and len(spots := host.able(need, end)) >= count:
                return sorted(spots, key=_roomy if spread else _tight)[:count]
        return None

    def place(self, job: QueuedJob, spots: Sequence[Spot], end: float) -> None:
        """Takes the devices for the job until `end`."""
        tenant = Tenant(end, None if job.whole else job.memory, job.id)
        for spot in spots:
            spot.add(tenant)
        host = spots[0].host
        self.hosts.remove(host)
        host.count()
        insort(self.hosts, host, key=_fullness)
        self._sum_up()

    def earliest(self, job: QueuedJob) -> Reservation | None:
        """The earliest moment at which one host has all that the job needs; None if that is never.

        Of devices that are free in time it takes the latest, as jobs behind it can use the others meanwhile.
        """
        best: tuple[float, str, list[tuple[float, Spot]]] | None = None
        for host in self.hosts:
            if len(host.spots) < job.devices:
                continue
            times = sorted(((spot.takes_at(job, self.now), spot) for spot in host.spots), key=lambda item: item[0])
            start = times[job.devices - 1][0]
            if start < INFINITY and (best is None or (start, host.id) < best[:2]):
                best = (start, host.id, [item for item in times if item[0] <= start])
        if best is None:
            return None
        start, host_id, able = best
        able.sort(key=lambda item: (-item[0], item[1].index))
        chosen = [spot for _, spot in able[: job.devices]]
        ending = sorted(tenant.job_id for spot in chosen for tenant in spot.tenants if tenant.end == start)
        ids = tuple(spot.id for spot in sorted(chosen, key=lambda spot: spot.index))
        return Reservation(job.id, host_id, ids, start, ending[0] if ending else None)

    def hold(self, job: QueuedJob, device_ids: Iterable[str], start: float) -> None:
        """Keeps devices for the job."""
        for device_id in device_ids:
            self.spots[device_id].hold(job, start)

    def free_for(self, job: QueuedJob) -> int:
        """The most devices of one host that the job could have now."""
        need = job.memory or 0
        able = [host.able_whole(need, INFINITY) if job.whole else host.able(need, INFINITY) for host in self.hosts]
        return max(map(len, able), default=0)


_fullness = attrgetter("empties", "id")


def _tight(spot: Spot) -> tuple[bool, bool, float, int]:
    return not spot.tenants, spot.held_from < INFINITY, spot.free, spot.index


def _roomy(spot: Spot) -> tuple[int, bool, float, int]:
    return len(spot.tenants), spot.held_from < INFINITY, -spot.free, spot.index


def _spot(device: Device, host: Host, rules: Rules) -> Spot:
    margin = device.memory * rules.memory_margin
    known = device.memory > 0
    capacity = device.memory - margin - device.foreign if known else INFINITY
    return Spot(
        device.id,
        host,
        device.index,
        device.usable,
        clean=device.foreign <= margin,
        capacity=capacity,
        places=rules.max_sharers if known else 1,
        free=capacity,
    )
