"""What the policy sees of the world."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QueuedJob:
    """A job that wants devices; `priority` is its class rank, times are seconds since 1970."""

    id: str
    owner: str
    priority: int
    queued_at: float
    devices: int
    not_before: float | None = None


@dataclass(frozen=True)
class Device:
    """A device of a host that is alive and not draining."""

    id: str
    host_id: str
    index: int


@dataclass(frozen=True)
class Running:
    """What holds devices now."""

    job_id: str
    device_ids: tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """Start `job_id` on these devices of one host."""

    job_id: str
    host_id: str
    device_ids: tuple[str, ...]
