"""What all of OpenAI's routes share: times in seconds since 1970, pages, and how a list is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Protocol, TypeVar

from fastapi import Query

from opensloth.jobs.views import Page

Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many entries.")]
After = Annotated[str | None, Query(max_length=256, description="The id of the last entry of the page before.")]


class HasId(Protocol):
    """An entry of a list."""

    id: str


ItemT = TypeVar("ItemT", bound=HasId)


def page(items: Sequence[ItemT], has_more: bool) -> Page[ItemT]:
    """One page of a list; the SDK asks for the next with the last entry's id as `after`."""
    first, last = (items[0].id, items[-1].id) if items else (None, None)
    return Page(data=list(items), has_more=has_more, first_id=first, last_id=last)


def unix(time: str) -> int:
    """Whole seconds since 1970 of an RFC 3339 time."""
    return int(datetime.fromisoformat(time).timestamp())


def unix_or_none(time: str | None) -> int | None:
    """As `unix`, of a time that may not have come yet."""
    return None if time is None else unix(time)
