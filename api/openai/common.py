"""What all of OpenAI's routes share: times in seconds since 1970, and how a list is asked for."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Query

Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many entries.")]
After = Annotated[str | None, Query(max_length=256, description="The id of the last entry of the page before.")]


def unix(time: str) -> int:
    """Whole seconds since 1970 of an RFC 3339 time."""
    return int(datetime.fromisoformat(time).timestamp())


def unix_or_none(time: str | None) -> int | None:
    """As `unix`, of a time that may not have come yet."""
    return None if time is None else unix(time)
