"""The intervals of an evaluation against published values, and what follows from them."""

from __future__ import annotations

import random

import pytest

from opensloth.training.evaluations.statistics import bootstrap, compare, newcombe, wilson


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_the_interval_of_paired_shares_is_the_published_one() -> None:
    # Newcombe 1998, Statistics in Medicine 17:2635, table II, method 10.
    pairs = [(1, 1)] * 36 + [(0, 1)] * 12 + [(1, 0)] * 2
    assert newcombe([a for a, _ in pairs], [b for _, b in pairs]) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_the_interval_of_paired_shares_holds_the_difference_as_often_as_it_says() -> None:
    source = random.Random(5)
    chances, held = [0.5, 0.25, 0.15, 0.1], 0
    for _ in range(1000):
        drawn = source.choices([(1, 1), (0, 1), (1, 0), (0, 0)], chances, k=40)
        low, high = newcombe([a for a, _ in drawn], [b for _, b in drawn])
        held += low <= 0.25 - 0.15 <= high
    assert 930 <= held <= 985


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_rows() -> None:
    source = random.Random(3)
    values = [source.gauss(0.2, 1.0) for _ in range(2000)]
    mean = sum(values) / len(values)
    low, high = bootstrap(values)
    assert low == pytest.approx(mean - 1.96 / 2000**0.5, abs=0.004)
    assert high == pytest.approx(mean + 1.96 / 2000**0.5, abs=0.004)
    assert bootstrap(values) == (low, high)


def test_a_verdict_needs_rows_and_an_interval_beside_zero() -> None:
    assert compare([0.0] * 9, [1.0] * 9).verdict == "too few rows"
    assert compare([0.0] * 20, [1.0] * 20).verdict == "better"
    assert compare([0.9] * 20, [0.1] * 20).verdict == "worse"
    assert compare([0.0, 1.0] * 20, [1.0, 0.0] * 20).verdict == "no clear difference"
    found = compare([0, 0, 1, 1] * 10, [1, 0, 0, 1] * 10)
    assert (found.improved, found.worsened, found.difference, found.rows) == (10, 10, 0.0, 40)
