"""The queue as clients see it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from opensloth.events.records import rfc3339


class QueueView(BaseModel):
    """What a job that waits is told."""

    position: int | None = Field(None, description="Its place in the queue; the first is 1. None until it is queued.")
    waiting_for: str | None = Field(None, description="What it waits for, in words.")
    expected_start: str | None = Field(None, description="None where nobody can know it yet.")


class QueueEntry(QueueView):
    """One place of the queue; a job of a team that the caller does not see has neither id nor name."""

    object: Literal["queue.entry"] = "queue.entry"
    devices: int
    id: str | None = None
    name: str | None = None
    owner: str | None = None
    team: str | None = None
    priority: str | None = None
    queued_at: str | None = None
    promised_start: str | None = Field(None, description="The first start that it was told.")


class QueuePage(BaseModel):
    """The queue from one position on, in order; pass the last position as `after` for more."""

    object: Literal["list"] = "list"
    data: list[QueueEntry]
    has_more: bool = False


def time_of(moment: float | None) -> str | None:
    """Seconds since 1970 as RFC 3339."""
    return None if moment is None else rfc3339(moment)
