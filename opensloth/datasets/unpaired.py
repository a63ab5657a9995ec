"""Rows with one answer and a label, as KTO trains on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from opensloth.datasets.encode import EncodedPair, encode_answers
from opensloth.datasets.encode_rows import encoded_rows
from opensloth.datasets.prepare import fit_pair, some_left
from opensloth.datasets.prepared import DataCounts, Prepared, integer_lists, keep
from opensloth.datasets.row_text import Row

WINDOW_ROWS = 1024

Unpaired = tuple[EncodedPair, bool]
"""A prompt with an answer, in place of both answers, and whether that is a wanted one."""


def prepare_kto(
    rows: Iterable[Row],
    tokenizer: Any,
    *,
    max_length: int,
    max_prompt_length: int | None = None,
    filter_overlength: bool = True,
    split: str = "train",
    processes: int | None = None,
) -> Prepared:
    """Columns `prompt_ids`, `completion_ids` and `label`, and `KL_completion_ids` for an evaluation.

    Lengths are kept as for DPO. The last column is the answer of the row before, from which an evaluation estimates
    its KL; the first row, which has none, comes last there. Raises InvalidDataset for a row that cannot be tokenized
    and when no row is left.
    """
    counts = DataCounts(split)

    def tables() -> Iterator[pa.Table]:
        encoded = encoded_rows(rows, lambda batch: encode_unpaired(batch, tokenizer), counts, processes)
        kept = _kept(encoded, max_length, max_prompt_length, filter_overlength, counts)
        with_others = ((row, None) for row in kept) if split == "train" else _with_the_row_before(kept)
        while window := list(islice(with_others, WINDOW_ROWS)):
            yield _table(window, max_length)
        some_left(counts, rows, "kto_args.max_length", max_length, filter_overlength)

    options = {"method": "kto", "max_length": max_length, "max_prompt_length": max_prompt_length}
    options |= {"filter_overlength": filter_overlength, "train": split == "train"}
    return keep(rows, tokenizer, counts, tables, options)


def _kept(
    rows: Iterable[Unpaired],
    max_length: int,
    max_prompt_length: int | None,
    filter_overlength: bool,
    counts: DataCounts,
) -> Iterator[Unpaired]:
    for encoded, label in rows:
        cut = fit_pair(encoded, max_length, max_prompt_length, filter_overlength, counts)
        if cut is not None:
            counts.tokens += len(cut.prompt_ids) + len(cut.chosen_ids)
            counts.trained_tokens += len(cut.chosen_ids)
            yield cut, label


def _with_the_row_before(rows: Iterator[Unpaired]) -> Iterator[tuple[Unpaired, Unpaired]]:
    """Each row with the one before it; the first, which comes last, with the last one."""
    first = before = next(rows, None)
    for row in rows:
        assert before is not None
        yield row, before
        before = row
    if first is not None and before is not None:
        yield first, before


def _table(window: list[tuple[Unpaired, Unpaired | None]], max_length: int) -> pa.Table:
    """Rows as columns; with `KL_completion_ids`, cut so that a row has `max_length` tokens, where they have others."""
    columns = {
        "prompt_ids": [row.prompt_ids for (row, _), _ in window],
        "completion_ids": [row.chosen_ids for (row, _), _ in window],
    }
    others = [other[0].chosen_ids[: max_length - len(row.prompt_ids)] for (row, _), other in window if other]
    if others:
        columns["KL_completion_ids"] = others
    return integer_lists(columns).append_column("label", pa.array([label for (_, label), _ in window]))


def encode_unpaired(rows: Sequence[Row], tokenizer: Any) -> list[Unpaired]:
    """The prompt and answer of each row, the answer twice, and whether it is a wanted one."""
    encoded = encode_answers(rows, tokenizer, ("completion",))
    return [
        (EncodedPair(prompt, answer, answer), bool(row["label"]))
        for (prompt, (answer,)), row in zip(encoded, rows, strict=True)
    ]


def balanced_weights(
    labels: Sequence[bool], desirable: float | None = None, undesirable: float | None = None
) -> tuple[float, float]:
    """The factors of the losses of wanted and unwanted answers, so that both weigh alike in all (KTO, equation 8).

    What is given stays. Else the more frequent label gets 1; with one label alone both are 1.
    """
    wanted = sum(labels)
    unwanted = len(labels) - wanted
    if not wanted or not unwanted:
        return desirable or 1.0, undesirable or 1.0
    if desirable is None and undesirable is None:
        return max(unwanted / wanted, 1.0), max(wanted / unwanted, 1.0)
    if desirable is None:
        assert undesirable is not None
        return undesirable * unwanted / wanted, undesirable
    return desirable, undesirable if undesirable is not None else desirable * wanted / unwanted
