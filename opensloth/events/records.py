"""An event as it leaves the service, and how it is encoded for list, stream and SSE."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel

from opensloth.events.rows import EventRow

Level = Literal["info", "warning", "error"]


class Record(BaseModel):
    """What happened, before it has a number; `time` is seconds since 1970."""

    type: str
    message: str
    level: Level = "info"
    data: dict[str, Any] = {}
    time: float | None = None


class EventView(BaseModel):
    """One event of a job as clients see it."""

    object: Literal["event"] = "event"
    job_id: str
    seq: int
    attempt: int
    type: str
    level: str
    time: str
    message: str
    data: dict[str, Any]

    @classmethod
    def of(cls, row: EventRow) -> EventView:
        """The view of a stored row."""
        return cls(
            job_id=row.job_id,
            seq=row.seq,
            attempt=row.attempt,
            type=row.type,
            level=row.level,
            time=rfc3339(row.time),
            message=row.message,
            data=row.data,
        )


def rfc3339(time: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def finite(value: Any) -> Any:
    """What a database takes: numbers that are not finite become null, NULs go, halves of characters become `?`."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {finite(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
