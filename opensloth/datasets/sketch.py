"""Counts of a stream of numbers in bounded memory: exact up to 4,096, to 1/64 of the value above."""

from __future__ import annotations

from collections import Counter
from typing import Any

EXACT = 4096
STEPS = 64
"""Steps in each doubling above `EXACT`."""
PERCENTILES = (1, 5, 25, 50, 75, 90, 95, 99)


class Lengths:
    """The distribution of token counts."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.total = 0
        self.least: int | None = None
        self.most = 0

    def add(self, length: int) -> None:
        """Count one."""
        self._counts[_step(length)] += 1
        self.count += 1
        self.total += length
        self.least = length if self.least is None else min(self.least, length)
        self.most = max(self.most, length)

    def percentile(self, percent: float) -> int | None:
        """The smallest value that at least `percent` per cent of the numbers do not exceed; None without numbers."""
        wanted = self.count * percent / 100
        seen = 0
        for value in sorted(self._counts):
            seen += self._counts[value]
            if seen >= wanted:
                return min(value, self.most)
        return None

    def to_dict(self) -> dict[str, Any]:
        """Least, most, mean and percentiles, in tokens."""
        if not self.count:
            return {"min": None, "max": None, "mean": None, "total": 0, "percentiles": {}}
        percentiles = {f"p{percent}": self.percentile(percent) for percent in PERCENTILES}
        mean = round(self.total / self.count, 1)
        return {
            "min": self.least,
            "max": self.most,
            "mean": mean,
            "total": self.total,
            "percentiles": percentiles,
        }


def _step(length: int) -> int:
    """The upper end of the step that `length` falls into."""
    if length <= EXACT:
        return length
    width = 1 << max(0, length.bit_length() - STEPS.bit_length())
    return -(-length // width) * width
