"""Packing fills rows well, loses nothing, and is repeatable."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from opensloth.datasets.pack import pack


@settings(deadline=None)
@given(st.lists(st.integers(1, 64), max_size=200), st.integers(64, 128))
def test_each_sample_is_in_one_row_and_no_row_overflows(lengths: list[int], capacity: int) -> None:
    rows = pack(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= capacity for row in rows)
    assert rows == pack(lengths, capacity)


@settings(deadline=None)
@given(st.lists(st.integers(1, 64), min_size=2, max_size=200))
def test_no_two_rows_would_fit_into_one(lengths: list[int]) -> None:
    fill = sorted(sum(lengths[i] for i in row) for row in pack(lengths, 64))
    assert len(fill) < 2 or fill[0] + fill[1] > 64


def test_a_sample_goes_where_it_leaves_the_least_room() -> None:
    assert pack([6, 5, 4, 3], 10) == [[0, 2], [1, 3]]


def test_windows_leave_hardly_a_row_that_is_not_full() -> None:
    lengths = random.Random(0).choices(range(1, 400), k=30_000)
    for capacity in (2048, 32_768):
        assert len(pack(lengths, capacity)) < 1.02 * sum(lengths) / capacity + 1
