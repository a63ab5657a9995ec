"""Keeping a share of the training rows for evaluation."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

EVAL_NAMES = ("eval", "validation", "test")


class Part:
    """The rows that are kept for evaluation, or the others; the source is read anew each time.

    Of each stratum of 1 / `share` rows one is drawn, so that the parts need no count of the rows, are the same in
    every pass, and the kept rows come evenly from all over the file.
    """

    def __init__(self, rows: Iterable[Any], share: float, seed: int, *, kept: bool) -> None:
        self.rows, self.share, self.seed, self.kept = rows, share, seed, kept

    @property
    def cache(self) -> Any:
        """Where what is prepared from these rows is kept, if anywhere."""
        return getattr(self.rows, "cache", None)

    @property
    def fingerprint(self) -> str | None:
        """What names the content of these rows; None where nothing does."""
        source = getattr(self.rows, "fingerprint", None)
        return f"{source}:{self.share}:{self.seed}:{self.kept}" if source else None

    def __iter__(self) -> Iterator[Any]:
        draws = _draws(self.share, self.seed)
        drawn = next(draws)
        for number, row in enumerate(self.rows):
            if number == drawn:
                drawn = next(draws)
                if self.kept:
                    yield row
            elif not self.kept:
                yield row


def has_eval_rows(dataset: Any) -> bool:
    """Whether a dataset has a split for evaluation of its own."""
    return isinstance(dataset, Mapping) and any(dataset.get(name) is not None for name in EVAL_NAMES)


def with_eval_split(dataset: Any, share: float | None, seed: int) -> Any:
    """`dataset` with a share of its training rows as `eval`, unless it has such rows already.

    Rows that can be read only once are put into memory.
    """
    if share is None or has_eval_rows(dataset):
        return dataset
    rows = dataset["train"] if isinstance(dataset, Mapping) else dataset
    if isinstance(rows, Iterator):
        rows = list(rows)
    return {"train": Part(rows, share, seed, kept=False), "eval": Part(rows, share, seed, kept=True)}


def _draws(share: float, seed: int) -> Iterator[int]:
    """Row numbers, ascending, one of each stratum."""
    source = random.Random(seed)
    stratum = 0
    while True:
        first, end = math.ceil(stratum / share), math.ceil((stratum + 1) / share)
        yield source.randrange(first, max(end, first + 1))
        stratum += 1
