"""Packing: which short samples share one row."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

WINDOW_TOKENS = 2**18
WINDOW_ROWS = 2**14
"""Samples are packed in windows that end with the sample that reaches one of these: memory stays flat."""
WINDOW_PACKED_ROWS = 64
"""A window has tokens for as many packed rows at least, so that few of them are not full."""


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: lists of indices into `lengths`, each list's lengths adding up to `capacity` at most.

    Longest first; a sample goes into the row that it leaves the least room in. Deterministic. A sample longer than
    `capacity` gets a row of its own. All lengths are in tokens.
    """
    rows: list[list[int]] = []
    start = tokens = 0
    for index, length in enumerate(lengths):
        tokens += length
        if ends_window(tokens, index + 1 - start, capacity) or index + 1 == len(lengths):
            window = pack_window(lengths[start : index + 1], capacity)
            rows += [[start + i for i in row] for row in window] if start else window
            start, tokens = index + 1, 0
    return rows


def ends_window(tokens: int, rows: int, capacity: int) -> bool:
    """Whether a window of so many tokens and samples is complete."""
    return tokens >= max(WINDOW_TOKENS, WINDOW_PACKED_ROWS * capacity) or rows >= WINDOW_ROWS


def pack_window(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """As `pack`, all samples at once."""
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # free tokens -> rows with that many
    rooms: list[int] = []  # the keys of by_room, sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        place = bisect_left(rooms, length)
        if place == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[place]
            row = by_room[room].pop()
            if not by_room[room]:
                del by_room[room]
                rooms.pop(place)
        rows[row].append(index)
        left = room - length
        if left > 0:
            if left not in by_room:
                by_room[left] = []
                insort(rooms, left)
            by_room[left].append(row)
    return rows
