"""Hosts, jobs and their columns in the database, for tests that need no worker."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import insert, select, update

from opensloth.database import db_now
from opensloth.devices.rows import DeviceRow, HostRow
from opensloth.events.rows import EventCounterRow
from opensloth.jobs.planning import plan_round
from opensloth.jobs.rows import JobRow
from opensloth.services import Services

GIB = 2**30


def add_host(services: Services, devices: int = 4, host: str = "h", kind: str = "cuda", gib: int = 80) -> list[str]:
    """A host that was just heard from; returns its devices' ids."""
    ids = [f"{host}:{index}" for index in range(devices)]
    with services.database.write() as session:
        session.execute(insert(HostRow).values(id=host, seen_at=db_now(), draining=False, facts={"kind": kind}))
        for index, device_id in enumerate(ids):
            session.add(
                DeviceRow(
                    id=device_id, host_id=host, kind=kind, index=index, name="box", memory_bytes=gib * GIB, used_bytes=0
                )
            )
    return ids


def add_job(services: Services, owner: str = "ann", devices: int = 1, **columns: Any) -> str:
    """A queued job with these columns."""
    job_id = f"ftjob-{secrets.token_hex(12)}"
    values = {
        "id": job_id,
        "name": "made",
        "owner": owner,
        "state": "queued",
        "spec": {},
        "schema_version": 1,
        "user_metadata": {},
        "priority": 1,
        "device_count": devices,
        "max_retries": 0,
        "model_id": "tiny",
    }
    with services.database.write() as session:
        now = session.scalar(select(db_now())) or 0.0
        session.add(JobRow(**{**values, "created_at": now, "queued_at": now, **columns}))
        session.flush()
        session.add(EventCounterRow(job_id=job_id, last_seq=0))
    return job_id


def set_row(services: Services, table: Any, row_id: str, **columns: Any) -> None:
    """Change columns of one row."""
    with services.database.write() as session:
        session.execute(update(table).where(table.id == row_id).values(**columns))


def plan_now(services: Services) -> int:
    """One planning round."""
    return plan_round(services.database, services.events, services.publisher, services.settings)


def now_of(services: Services) -> float:
    """The database's time."""
    with services.database.read() as session:
        return session.scalar(select(db_now())) or 0.0
