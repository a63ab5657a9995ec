"""Keeping a share of the training rows for evaluation."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opensloth.datasets.raw import Convert, NumberedRows, raw_rows

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

    @property
    def name(self) -> str | None:
        """The file's name; None for rows of no file."""
        return getattr(self.rows, "name", None)

    def __iter__(self) -> Iterator[Any]:
        rows, convert = self.raw()
        for number, row in rows:
            yield from convert([row], [number])

    def raw(self) -> tuple[NumberedRows, Convert]:
        """This part's rows as they are written, numbered as in the source, and what converts them."""
        rows, convert = raw_rows(self.rows)
        return self._own(rows), convert

    def _own(self, rows: NumberedRows) -> NumberedRows:
        draws = _draws(self.share, self.seed)
        drawn = next(draws)
        for place, numbered in enumerate(rows):
            is_drawn = place == drawn
            if is_drawn:
                drawn = next(draws)
            if is_drawn is self.kept:
                yield numbered


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
