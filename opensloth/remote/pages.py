"""Lists that come in pages, read as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opensloth.remote.shapes import Page, ShapeT
from opensloth.remote.transport import Transport

PAGE = 100


def iterate(
    transport: Transport,
    path: str,
    shape: type[ShapeT],
    *,
    limit: int | None = None,
    params: dict[str, Any] | None = None,
) -> Iterator[ShapeT]:
    """Every entry of a list, or the first `limit`, fetching pages as they are needed."""
    after: str | None = None
    left = limit
    while left is None or left > 0:
        query: dict[str, Any] = {**(params or {}), "limit": PAGE if left is None else min(PAGE, left)}
        if after is not None:
            query["after"] = after
        page = Page.read(transport.json("GET", path, params=query), shape)
        yield from page.data if left is None else page.data[:left]
        if left is not None:
            left -= len(page.data)
        if not page.has_more or page.last_id is None or page.last_id == after:
            return
        after = page.last_id
