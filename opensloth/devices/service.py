"""Hosts and devices as rows: registered, kept fresh, drained, put out of service and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from opensloth.accounts import audit
from opensloth.accounts.callers import Caller
from opensloth.database import Database, after_commit, db_now, insert_of
from opensloth.devices.inventory import FoundDevice, facts
from opensloth.devices.readings import Reading
from opensloth.devices.rows import DeviceLeaseRow, DeviceRow, HostRow
from opensloth.errors import Conflict, NotFound
from opensloth.events.publisher import Publisher

log = logging.getLogger(__name__)


class DeviceService:
    """The only writer of hosts and devices."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._db = database
        self._publisher = publisher

    def register(
        self, host_id: str, devices: Sequence[FoundDevice], *, leases: bool = False, worker: str | None = None
    ) -> None:
        """Write a host's row and its devices; one that is gone goes, unless it is leased, or quarantined: see why.

        `leases`: it runs people's own commands; `worker`: which process speaks for it from now on.
        """
        with self._db.write() as session:
            insert = insert_of(session)
            told = {**facts(list(devices)), "leases": leases, "worker": worker}
            values = {"seen_at": db_now(), "facts": told}
            session.execute(
                insert(HostRow)
                .values(id=host_id, draining=False, **values)
                .on_conflict_do_update(index_elements=["id"], set_=values)
            )
            leased = select(DeviceLeaseRow.device_id)
            gone = DeviceRow.id.not_in([device.id for device in devices]) & DeviceRow.id.not_in(leased)
            session.execute(
                delete(DeviceRow).where(DeviceRow.host_id == host_id, DeviceRow.quarantined.is_(None), gone)
            )
            for device in devices:
                row = {
                    "host_id": host_id,
                    "kind": device.kind,
                    "index": device.index,
                    "name": device.name,
                    "memory_bytes": device.memory_bytes,
                }
                session.execute(
                    insert(DeviceRow).values(id=device.id, **row).on_conflict_do_update(index_elements=["id"], set_=row)
                )

    def beat(self, host_id: str, readings: Mapping[str, Reading]) -> bool:
        """A sign of life, and what the devices look like now; False if the host has no row any more."""
        with self._db.write(urgent=True) as session:
            alive = session.scalar(
                update(HostRow).where(HostRow.id == host_id).values(seen_at=db_now()).returning(HostRow.id)
            )
            for device_id, reading in sorted(readings.items()):
                session.execute(update(DeviceRow).where(DeviceRow.id == device_id).values(**_columns(reading)))
        return alive is not None

    def speaker(self, host_id: str) -> tuple[str | None, float] | None:
        """Which worker speaks for a host and the seconds since it last did; None if nobody ever has."""
        with self._db.read() as session:
            row = session.execute(
                select(HostRow.facts, (db_now() - HostRow.seen_at).label("silent")).where(HostRow.id == host_id)
            ).one_or_none()
        return None if row is None else (row.facts.get("worker"), float(row.silent))

    def set_host_draining(self, host_id: str, draining: bool) -> None:
        """Whether planners may give jobs to a host."""
        with self._db.write() as session:
            session.execute(update(HostRow).where(HostRow.id == host_id).values(draining=draining))

    def quarantine(self, device_id: str, reason: str) -> None:
        """Take a device out of service; the first reason stays."""
        with self._db.write() as session:
            moved = session.scalar(
                update(DeviceRow)
                .where(DeviceRow.id == device_id, DeviceRow.quarantined.is_(None))
                .values(quarantined=reason, quarantined_at=db_now())
                .returning(DeviceRow.id)
            )
        if moved is not None:
            log.error("the device %s is out of service: %s", device_id, reason)

    def lift(self, device_ids: Sequence[str], reason: str) -> None:
        """Put back what is out of service for this very reason."""
        with self._db.write() as session:
            session.execute(
                update(DeviceRow)
                .where(DeviceRow.id.in_(device_ids), DeviceRow.quarantined == reason)
                .values(quarantined=None, quarantined_at=None)
            )
            after_commit(session, self._publisher.wake_planner)

    def set_draining(self, device_id: str, draining: bool, caller: Caller) -> None:
        """Keep new jobs from a device, or let them in again; what runs on it goes on. For admins."""
        caller.require_admin("drain devices")
        with self._db.write() as session:
            row = _found(session, device_id)
            if row.draining != draining:
                row.draining = draining
                audit.record(session, caller, "device.drain" if draining else "device.undrain", device_id)
                after_commit(session, self._publisher.wake_planner)

    def release(self, device_id: str, caller: Caller) -> None:
        """Put a quarantined device back into service. For admins; raises Conflict if it is not quarantined."""
        caller.require_admin("release devices")
        with self._db.write() as session:
            row = _found(session, device_id)
            if row.quarantined is None:
                raise Conflict(f"the device {device_id} is not quarantined")
            audit.record(session, caller, "device.release", device_id, reason=row.quarantined)
            row.quarantined = row.quarantined_at = None
            after_commit(session, self._publisher.wake_planner)


def _found(session: Session, device_id: str) -> DeviceRow:
    row = session.get(DeviceRow, device_id, with_for_update=True)
    if row is None:
        raise NotFound(f"there is no device {device_id!r}", hint="`opensloth devices` lists them")
    return row


def _columns(reading: Reading) -> dict[str, Any]:
    processes = [asdict(process) for process in reading.processes]
    for process in processes:
        del process["guessed"]
    return {
        "used_bytes": reading.used_bytes,
        "foreign_bytes": reading.foreign_bytes,
        "utilization": reading.utilization,
        "temperature": reading.temperature,
        "processes": processes,
    }
