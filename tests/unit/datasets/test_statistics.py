"""Figures stay right and small whatever the number of rows."""

from __future__ import annotations

import random

from opensloth.datasets.sketch import Lengths
from opensloth.datasets.statistics import Hashes, content_hash


def test_percentiles_are_exact_for_usual_lengths_and_near_for_long_ones():
    lengths = Lengths()
    values = list(range(1, 101))
    random.Random(0).shuffle(values)
    for value in values:
        lengths.add(value)
    found = lengths.to_dict()
    assert found["percentiles"] == {f"p{p}": p for p in (1, 5, 25, 50, 75, 90, 95, 99)}
    assert (found["min"], found["max"], found["mean"], found["total"]) == (1, 100, 50.5, 5050)
    long = Lengths()
    for value in range(1_000_000, 1_001_000):
        long.add(value)
    assert 1_000_500 <= long.percentile(50) <= 1_000_999


def test_duplicates_are_counted_exactly_until_there_are_too_many_and_then_nearly():
    hashes = Hashes(limit=1000)
    source = random.Random(1)
    digests = [source.getrandbits(64) for _ in range(20_000)]
    for number, digest in enumerate([*digests[:500], *digests[:10]], 1):
        hashes.add(digest, number)
    assert (hashes.repeats, hashes.exact, hashes.examples[0]) == (10, True, (1, 501))
    sampled = Hashes(limit=1000)
    for number, digest in enumerate([*digests, *digests[:10_000]], 1):
        sampled.add(digest, number)
    assert not sampled.exact
    assert 8_000 < sampled.repeats < 12_000


def test_an_id_beside_the_content_does_not_hide_a_duplicate():
    assert content_hash({"text": "a", "id": 1}) == content_hash({"id": 2, "text": "a"})
    assert content_hash({"text": "a"}) != content_hash({"text": "b"})
