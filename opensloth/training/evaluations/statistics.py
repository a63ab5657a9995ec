"""How sure a difference between base and result is: both answered the same rows, so that rows are compared in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Z = 1.959963984540054
"""The 97.5th percentile of the normal distribution: intervals hold 95%."""
RESAMPLES = 10_000
ENOUGH_ROWS = 10
"""With fewer rows no verdict is given, whatever they say."""
NEWCOMBE = "Newcombe's interval for paired proportions (1998, method 10)"
BOOTSTRAP = f"paired percentile bootstrap, {RESAMPLES:,} resamples of rows"
WILSON = "Wilson's score interval"

Interval = tuple[float, float]
Verdict = Literal["better", "worse", "no clear difference", "too few rows"]


@dataclass(frozen=True)
class Comparison:
    """One measure of both models: means, the mean difference (result - base) and the 95% intervals of all three."""

    rows: int
    base: float
    result: float
    base_interval: Interval
    result_interval: Interval
    difference: float
    interval: Interval
    method: str
    improved: int
    """Rows on which the result scored higher."""
    worsened: int
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """As the summary has it."""
        return asdict(self)


def compare(base: Sequence[float], result: Sequence[float]) -> Comparison:
    """Compare the scores of the same rows; at least one row."""
    differences = [b - a for a, b in zip(base, result, strict=True)]
    binary = all(score in (0, 1) for score in (*base, *result))
    interval = newcombe(base, result) if binary else bootstrap(differences)
    mean = math.fsum(differences) / len(differences)
    return Comparison(
        rows=len(differences),
        base=math.fsum(base) / len(base),
        result=math.fsum(result) / len(result),
        base_interval=mean_interval(base),
        result_interval=mean_interval(result),
        difference=mean,
        interval=interval,
        method=NEWCOMBE if binary else BOOTSTRAP,
        improved=sum(difference > 0 for difference in differences),
        worsened=sum(difference < 0 for difference in differences),
        verdict=_verdict(len(differences), interval),
    )


def mean_interval(scores: Sequence[float]) -> Interval:
    """95% for a mean: Wilson's interval where every score is 0 or 1, else the bootstrap's."""
    if all(score in (0, 1) for score in scores):
        return wilson(int(sum(scores)), len(scores))
    return bootstrap(scores)


def wilson(successes: int, count: int) -> Interval:
    """95% for a share (Wilson 1927)."""
    share, spread = successes / count, Z * Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    # Where all or none succeeded the end is the share itself, which rounding may miss.
    return (0.0 if successes == 0 else max(0.0, middle - half), 1.0 if successes == count else min(1.0, middle + half))


def newcombe(base: Sequence[float], result: Sequence[float]) -> Interval:
    """95% for the difference of two shares of the same rows (Newcombe 1998, Statistics in Medicine 17, method 10)."""
    count = len(base)
    both = sum(a == 1 and b == 1 for a, b in zip(base, result, strict=True))
    only_result = sum(a == 0 and b == 1 for a, b in zip(base, result, strict=True))
    only_base = sum(a == 1 and b == 0 for a, b in zip(base, result, strict=True))
    neither = count - both - only_result - only_base
    p1, p2 = (both + only_result) / count, (both + only_base) / count
    (l1, u1), (l2, u2) = wilson(both + only_result, count), wilson(both + only_base, count)
    margins = (both + only_result) * (only_base + neither) * (both + only_base) * (only_result + neither)
    phi = 0.0
    if margins:
        product = float(both * neither - only_result * only_base)
        if product > 0:  # Newcombe's continuity correction of phi
            product = max(product - count / 2, 0)
        phi = product / math.sqrt(margins)
    low = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    high = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    return (p1 - p2 - math.sqrt(max(low, 0.0)), p1 - p2 + math.sqrt(max(high, 0.0)))


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """95% for a mean, by drawing rows again and again (Efron 1979); the same for the same values."""
    import numpy as np

    given = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    at_once = max(1, 2_000_000 // len(given))
    for first in range(0, RESAMPLES, at_once):
        last = min(first + at_once, RESAMPLES)
        means[first:last] = given[random.integers(0, len(given), (last - first, len(given)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _verdict(rows: int, interval: Interval) -> Verdict:
    if rows < ENOUGH_ROWS:
        return "too few rows"
    return "better" if interval[0] > 0 else "worse" if interval[1] < 0 else "no clear difference"
