"""The tables of hosts, devices, the leases on them, and what jobs have needed there."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, false
from sqlalchemy.orm import Mapped, mapped_column

from opensloth.database import Base


class HostRow(Base):
    """A machine with a worker."""

    __tablename__ = "hosts"

    id: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[float]
    draining: Mapped[bool] = mapped_column(default=False)
    facts: Mapped[dict[str, Any]]
    """What its devices can do: kind, bf16, has_unsloth, has_bitsandbytes, count."""


class DeviceRow(Base):
    """A CUDA GPU (by UUID) or a CPU slot."""

    __tablename__ = "devices"

    id: Mapped[str] = mapped_column(primary_key=True)
    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str]
    """`cuda` or `cpu`."""
    index: Mapped[int]
    name: Mapped[str]
    memory_bytes: Mapped[int]
    used_bytes: Mapped[int | None]
    """By all processes; None where nobody can tell."""
    foreign_bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    """By processes that are not ours."""
    utilization: Mapped[int | None]
    """Per cent."""
    temperature: Mapped[int | None]
    """Degrees Celsius."""
    processes: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    """[{"pid", "bytes", "job_id"}]; `job_id` is None for a process that is not ours."""
    draining: Mapped[bool] = mapped_column(default=False, server_default=false())
    """An admin wants it empty: what runs goes on, nothing starts."""
    quarantined: Mapped[str | None]
    """Why it is out of service; None: it is not."""
    quarantined_at: Mapped[float | None]


class DeviceLeaseRow(Base):
    """A device that an attempt holds until its processes are gone."""

    __tablename__ = "device_leases"

    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int]


class ShapeRow(Base):
    """What ended jobs of one shape have needed; estimates of later ones learn from it."""

    __tablename__ = "job_shapes"

    shape: Mapped[str] = mapped_column(primary_key=True)
    peak_bytes: Mapped[int | None]
    """The largest measured peak on one device."""
    start_s: Mapped[float | None]
    """From placement to the end of the first step, of the last job."""
    step_s: Mapped[float | None]
    """Mean seconds a step, of the last job."""
    jobs: Mapped[int]
    updated_at: Mapped[float]
