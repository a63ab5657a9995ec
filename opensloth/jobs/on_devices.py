"""Devices as clients see them: their health, their memory, and the jobs that hold them."""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

from pydantic import BaseModel, Field
from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller
from opensloth.database import Database, now_of
from opensloth.devices.rows import DeviceLeaseRow, DeviceRow, HostRow
from opensloth.errors import NotFound
from opensloth.events.records import rfc3339
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.settings import Settings

Health = Literal["ok", "draining", "quarantined", "away"]


class Holder(BaseModel):
    """A job on a device; of a team that the caller does not see, only the memory is shown."""

    job_id: str | None
    name: str | None
    owner: str | None
    team: str | None
    memory_bytes: int | None = Field(description="Its share; None: it has the device whole.")
    used_bytes: int | None = Field(description="What it holds now; None where nobody can tell.")


class ForeignProcess(BaseModel):
    """A process on a device that is not ours."""

    pid: int
    bytes: int | None


class DeviceView(BaseModel):
    """A GPU or a CPU slot. Sizes in bytes, times RFC 3339; None where nobody can tell."""

    id: str = Field(description="A GPU's UUID, or host:cpuN.")
    object: Literal["device"] = "device"
    host_id: str
    kind: str
    index: int
    name: str
    health: Health = Field(description="`away`: its host has not been heard from.")
    memory_bytes: int
    used_bytes: int | None = Field(description="By all processes.")
    free_bytes: int | None
    foreign_bytes: int = Field(description="By processes that are not ours; it counts as taken.")
    utilization: int | None = Field(description="Per cent.")
    temperature: int | None = Field(description="Degrees Celsius.")
    draining: bool = Field(description="What runs goes on, nothing starts.")
    quarantined: str | None = Field(description="Why it is out of service.")
    quarantined_at: str | None
    seen_at: str
    jobs: list[str | None] = Field(description="The jobs that hold it; None for one of another team.")
    holders: list[Holder]
    foreign: list[ForeignProcess]


class DeviceViews:
    """Reads the devices for a caller."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings

    def all(self, caller: Caller) -> list[DeviceView]:
        """Every device, by host and index."""
        with self._db.read() as session:
            return self._read(session, caller)

    def get(self, device_id: str, caller: Caller) -> DeviceView:
        """One device; raises NotFound."""
        with self._db.read() as session:
            found = self._read(session, caller, device_id)
        if not found:
            raise NotFound(f"there is no device {device_id!r}", hint="`opensloth devices` lists them")
        return found[0]

    def _read(self, session: Session, caller: Caller, device_id: str | None = None) -> list[DeviceView]:
        now = now_of(session)
        query = select(DeviceRow, HostRow).join(HostRow, HostRow.id == DeviceRow.host_id)
        if device_id is not None:
            query = query.where(DeviceRow.id == device_id)
        rows = session.execute(query.order_by(DeviceRow.host_id, DeviceRow.index, DeviceRow.id)).all()
        holders = _holders(session, caller)
        alive_since = now - self._settings.host_timeout_s
        return [_view(device, host, holders[device.id], alive_since) for device, host in rows]


def _holders(session: Session, caller: Caller) -> dict[str, list[tuple[str, Holder]]]:
    rows = session.execute(
        select(DeviceLeaseRow.device_id, JobRow.id, JobRow.name, JobRow.owner, JobRow.team, AttemptRow.memory_bytes)
        .join(JobRow, JobRow.id == DeviceLeaseRow.job_id)
        .outerjoin(AttemptRow, and_(AttemptRow.job_id == JobRow.id, AttemptRow.attempt == DeviceLeaseRow.attempt))
        .order_by(DeviceLeaseRow.device_id, JobRow.id)
    )
    found: dict[str, list[tuple[str, Holder]]] = defaultdict(list)
    for device_id, job_id, name, owner, team, share in rows:
        seen = caller.can_see(team)
        holder = Holder(
            job_id=job_id if seen else None,
            name=name if seen else None,
            owner=owner if seen else None,
            team=team if seen else None,
            memory_bytes=share,
            used_bytes=None,
        )
        found[device_id].append((job_id, holder))
    return found


def _view(row: DeviceRow, host: HostRow, held: list[tuple[str, Holder]], alive_since: float) -> DeviceView:
    for job_id, holder in held:
        sizes = [entry["bytes"] for entry in row.processes if entry["job_id"] == job_id and entry["bytes"] is not None]
        holder.used_bytes = sum(sizes) if sizes else None
    return DeviceView(
        id=row.id,
        host_id=row.host_id,
        kind=row.kind,
        index=row.index,
        name=row.name,
        health=_health(row, host, alive_since),
        memory_bytes=row.memory_bytes,
        used_bytes=row.used_bytes,
        free_bytes=None if row.used_bytes is None else max(0, row.memory_bytes - row.used_bytes),
        foreign_bytes=row.foreign_bytes,
        utilization=row.utilization,
        temperature=row.temperature,
        draining=row.draining or host.draining,
        quarantined=row.quarantined,
        quarantined_at=None if row.quarantined_at is None else rfc3339(row.quarantined_at),
        seen_at=rfc3339(host.seen_at),
        jobs=[holder.job_id for _, holder in held],
        holders=[holder for _, holder in held],
        foreign=[
            ForeignProcess(pid=entry["pid"], bytes=entry["bytes"]) for entry in row.processes if entry["job_id"] is None
        ],
    )


def _health(row: DeviceRow, host: HostRow, alive_since: float) -> Health:
    if host.seen_at < alive_since:
        return "away"
    if row.quarantined is not None:
        return "quarantined"
    return "draining" if row.draining or host.draining else "ok"
