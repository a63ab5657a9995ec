"""The tables of hosts, devices and the leases on them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
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


class DeviceLeaseRow(Base):
    """A device that an attempt holds until its processes are gone."""

    __tablename__ = "device_leases"

    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int]
