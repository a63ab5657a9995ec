"""Both splits of a job's data, prepared in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opensloth.datasets.prepare import split_rows
from opensloth.datasets.prepared import DataCounts, Prepared


@dataclass(frozen=True)
class Splits:
    """What is trained on, and what is evaluated on, if anything."""

    train: Prepared
    evaluation: Prepared | None

    @property
    def datasets(self) -> dict[str, Any]:
        """As a trainer takes them."""
        evaluation = self.evaluation.dataset if self.evaluation else None
        return {"train_dataset": self.train.dataset, "eval_dataset": evaluation}

    @property
    def counts(self) -> list[DataCounts]:
        """What became of the rows of each split."""
        return [split.counts for split in (self.train, self.evaluation) if split is not None]


def prepare_splits(prepare: Callable[..., Prepared], dataset: Any, *given: Any, **options: Any) -> Splits:
    """`prepare(rows, *given, split=..., **options)` for each split of what a script or a job hands over."""
    train_rows, eval_rows = split_rows(dataset)
    train = prepare(train_rows, *given, split="train", **options)
    return Splits(train, None if eval_rows is None else prepare(eval_rows, *given, split="eval", **options))
