"""Rows as they are written, each with its number, and what makes rows that are trained on of them in any process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

NumberedRows = Iterator[tuple[int, Mapping[str, Any]]]
"""Rows with their numbers in the file, counted from 1."""

Convert = Callable[[Sequence[Mapping[str, Any]], Sequence[int]], list[Any]]
"""Takes some rows and their numbers; raises InvalidDataset for one that cannot be used."""


def raw_rows(rows: Iterable[Any]) -> tuple[NumberedRows, Convert]:
    """Of rows that know how they were written, those; any others are trained on as they are."""
    raw = getattr(rows, "raw", None)
    if raw is None:
        return enumerate(rows, 1), _as_they_are
    found: tuple[NumberedRows, Convert] = raw()
    return found


def _as_they_are(rows: Sequence[Any], numbers: Sequence[int]) -> list[Any]:
    return list(rows)
