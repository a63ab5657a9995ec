"""Rows with one answer and a label, as KTO trains on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from opensloth.datasets.encode import EncodedPair, Row, encode_answers
from opensloth.datasets.encode_rows import encoded_rows
from opensloth.datasets.prepare import fit_pair, some_left
from opensloth.datasets.prepared import DataCounts, Prepared, integer_lists, keep

WINDOW_ROWS = 4096


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
    its KL. Raises InvalidDataset for a row that cannot be tokenized and when no row is left.
    """
    counts = DataCounts(split)

    def tables() -> Iterator[pa.Table]:
        kept: list[EncodedPair] = []
        labels: list[bool] = []
        unpaired = encoded_rows(rows, lambda batch: encode_unpaired(batch, tokenizer), counts, processes)
        for encoded, label in unpaired:
            cut = fit_pair(encoded, max_length, max_prompt_length, filter_overlength, counts)
            if cut is None:
                continue
            kept.append(cut)
            labels.append(label)
            counts.tokens += len(cut.prompt_ids) + len(cut.chosen_ids)
            counts.trained_tokens += len(cut.chosen_ids)
            if split == "train" and len(kept) >= WINDOW_ROWS:
                yield _table(kept, labels)
                kept, labels = [], []
        some_left(counts, max_length)
        if kept:
            yield _table(kept, labels, None if split == "train" else max_length)

    options = {"method": "kto", "max_length": max_length, "max_prompt_length": max_prompt_length}
    options |= {"filter_overlength": filter_overlength, "train": split == "train"}
    return keep(rows, tokenizer, counts, tables, options)


def _table(kept: list[EncodedPair], labels: list[bool], others_within: int | None = None) -> pa.Table:
    """Rows as columns; with `KL_completion_ids`, cut so that a row has `others_within` tokens, if that is given."""
    answers = [pair.chosen_ids for pair in kept]
    columns = {"prompt_ids": [pair.prompt_ids for pair in kept], "completion_ids": answers}
    if others_within is not None:
        room = [others_within - len(pair.prompt_ids) for pair in kept]
        others = [answers[-1], *answers[:-1]]
        columns["KL_completion_ids"] = [other[:free] for other, free in zip(others, room, strict=True)]
    return integer_lists(columns).append_column("label", pa.array(labels))


def encode_unpaired(rows: Sequence[Row], tokenizer: Any) -> list[tuple[EncodedPair, bool]]:
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
