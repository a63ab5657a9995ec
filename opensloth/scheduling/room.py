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

    def takes(self, job: QueuedJob, end: float) -> bool:
        """Whether the job may start here now, if it goes at `end`."""
        need = job.memory or 0
        if job.whole:
            return self.is_empty and self.capacity >= need and end <= self.held_from
        return (
            self.usable
            and not self.closed
            and len(self.tenants) < self.places
            and need <= self.free
            and (end <= self.held_from or (need <= self.spare and self.spare_places > 0))
        )

    def takes_at(self, job: QueuedJob, now: float) -> float:
        """When the job could start here, others ending as expected; never (infinity) where it is kept for another."""
        if not self.usable or self.held_from < INFINITY or (job.whole and not self.clean):
            return INFINITY
        if not self.tenants or self.closed or job.whole:
            fits = self._fits_beside(job, ())
            return max((tenant.end for tenant in self.tenants), default=now) if fits else INFINITY
        left = sorted(self.tenants)
        at = now
        while not self._fits_beside(job, left):
            if not left:
                return INFINITY
            at = max(at, left.pop(0).end)
        return at

    def would_take(self, job: QueuedJob, gone: set[str]) -> bool:
        """Whether the job could start here if the jobs in `gone` were not there."""
        if not self.usable or self.held_from < INFINITY or (job.whole and not self.clean):
            return False
        return self._fits_beside(job, [tenant for tenant in self.tenants if tenant.job_id not in gone])

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

    def _fits_beside(self, job: QueuedJob, others: Sequence[Tenant]) -> bool:
        if job.whole:
            return not others and (job.memory or 0) <= self.capacity
        if len(others) >= self.places or any(tenant.memory is None for tenant in others):
            return False
        return (job.memory or 0) <= self.capacity - sum(tenant.memory or 0 for tenant in others)


@dataclass(slots=True, eq=False)
class Host:
    """A host's devices, and what they have at the most, so that most hosts need no closer look."""

    id: str
    spots: list[Spot] = field(default_factory=list)
    empties: int = 0
    most_free: float = 0.0

    def count(self) -> None:
        """Brings the summary up to date."""
        self.empties = sum(spot.is_empty for spot in self.spots)
        open_spots = [s for s in self.spots if s.usable and not s.closed and len(s.tenants) < s.places]
        self.most_free = max((spot.free for spot in open_spots), default=-1.0)


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
        spread = spread and not job.whole
        fallback: list[Spot] | None = None
        for host in reversed(self.hosts) if spread else self.hosts:
            if host.empties < job.devices if job.whole else host.most_free < (job.memory or 0):
                continue
            spots = [spot for spot in host.spots if spot.takes(job, end)]
            if len(spots) < job.devices:
                continue
            spots.sort(key=_roomy if spread else _tight)
            if spread or job.whole or spots[job.devices - 1].tenants:
                return spots[: job.devices]
            fallback = fallback or spots[: job.devices]
        return fallback

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
        return max((sum(spot.takes(job, INFINITY) for spot in host.spots) for host in self.hosts), default=0)


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
