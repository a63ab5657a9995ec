"""Raw rows to the dataset that a trainer reads: tokenized, cut or filtered by length, packed, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from opensloth.datasets.encode import IGNORE, Encoded, EncodedPair, Row, encode_dpo, encode_sft
from opensloth.datasets.pack import pack
from opensloth.errors import FieldError, InvalidDataset

BATCH_ROWS = 256


@dataclass
class DataCounts:
    """What became of the rows of one split; `tokens` and `trained_tokens` count one epoch.

    `dropped` rows were longer than allowed (`dropped_overlength`) or had nothing to train on.
    """

    split: str
    rows: int = 0
    kept: int = 0
    dropped: int = 0
    dropped_overlength: int = 0
    truncated: int = 0
    truncated_prompts: int = 0
    packed_rows: int | None = None
    tokens: int = 0
    trained_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As the `data` record carries it."""
        return asdict(self)

    def sentence(self) -> str:
        """For people."""
        text = f"{self.split}: {self.kept} of {self.rows} rows, {self.tokens} tokens"
        if self.packed_rows is not None:
            text += f" in {self.packed_rows} packed rows"
        if self.dropped:
            text += f"; {self.dropped} dropped, {self.dropped_overlength} of them as too long"
        if self.truncated or self.truncated_prompts:
            text += f"; {self.truncated} rows and {self.truncated_prompts} prompts cut"
        return text


@dataclass
class Prepared:
    """A dataset that a trainer reads as it is, and what became of the raw rows."""

    dataset: Dataset
    counts: DataCounts


def prepare_sft(
    rows: Iterable[Row],
    tokenizer: Any,
    *,
    max_length: int,
    loss_on: str | None = None,
    filter_overlength: bool = True,
    packing: bool = False,
    split: str = "train",
) -> Prepared:
    """Columns `input_ids` and `labels`, and `seq_lengths` (tokens of each sample in the row) when packed.

    A row of more than `max_length` tokens is left out, or cut there if `filter_overlength` is false. Raises
    InvalidDataset for a row that cannot be tokenized and when no row is left.
    """
    counts = DataCounts(split)
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for encoded in encoded_rows(rows, lambda batch: encode_sft(batch, tokenizer, loss_on), counts):
        cut = _fit_sample(encoded, max_length, filter_overlength, counts)
        if cut is not None:
            kept.append((np.asarray(cut.input_ids, np.int32), np.asarray(cut.labels, np.int32)))
            counts.tokens += len(cut.input_ids)
            counts.trained_tokens += int((kept[-1][1] != IGNORE).sum())
    some_left(counts, kept, max_length)
    groups = pack([len(ids) for ids, _ in kept], max_length) if packing else [[i] for i in range(len(kept))]
    columns: dict[str, Any] = {
        "input_ids": [np.concatenate([kept[i][0] for i in group]) for group in groups],
        "labels": [np.concatenate([kept[i][1] for i in group]) for group in groups],
    }
    if packing:
        counts.packed_rows = len(groups)
        columns["seq_lengths"] = [[len(kept[i][0]) for i in group] for group in groups]
    return Prepared(Dataset(integer_lists(columns)), counts)


def prepare_dpo(
    rows: Iterable[Row],
    tokenizer: Any,
    *,
    max_length: int,
    max_prompt_length: int | None = None,
    filter_overlength: bool = True,
    split: str = "train",
) -> Prepared:
    """Columns `prompt_ids`, `chosen_ids` and `rejected_ids`.

    Of a longer prompt the last `max_prompt_length` tokens are kept. A pair of which one answer then ends beyond
    `max_length` is left out, or its answers are cut there if `filter_overlength` is false. Raises InvalidDataset for
    a row that cannot be tokenized and when no row is left.
    """
    counts = DataCounts(split)
    kept: list[EncodedPair] = []
    for pair in encoded_rows(rows, lambda batch: encode_dpo(batch, tokenizer), counts):
        cut = fit_pair(pair, max_length, max_prompt_length, filter_overlength, counts)
        if cut is not None:
            kept.append(cut)
            answers = len(cut.chosen_ids) + len(cut.rejected_ids)
            counts.tokens += 2 * len(cut.prompt_ids) + answers
            counts.trained_tokens += answers
    some_left(counts, kept, max_length)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return Prepared(Dataset(integer_lists({name: [getattr(pair, name) for pair in kept] for name in names})), counts)


def _fit_sample(encoded: Encoded, max_length: int, filter_overlength: bool, counts: DataCounts) -> Encoded | None:
    if len(encoded.input_ids) > max_length:
        if filter_overlength:
            counts.dropped += 1
            counts.dropped_overlength += 1
            return None
        counts.truncated += 1
        encoded = Encoded(encoded.input_ids[:max_length], encoded.labels[:max_length])
    if all(label == IGNORE for label in encoded.labels):
        counts.dropped += 1
        return None
    counts.kept += 1
    return encoded


def fit_pair(
    pair: EncodedPair, max_length: int, max_prompt_length: int | None, filter_overlength: bool, counts: DataCounts
) -> EncodedPair | None:
    """The pair as it is trained on, or None where it is left out; `counts` says what became of it."""
    prompt, chosen, rejected = pair.prompt_ids, pair.chosen_ids, pair.rejected_ids
    cut_prompt = max_prompt_length is not None and len(prompt) > max_prompt_length
    if cut_prompt:
        prompt = prompt[-max_prompt_length:]  # type: ignore[operator]
    room = max_length - len(prompt)
    too_long = max(len(chosen), len(rejected)) > room
    if too_long and (filter_overlength or room <= 0):
        counts.dropped += 1
        counts.dropped_overlength += 1
        return None
    chosen, rejected = chosen[:room], rejected[:room]
    if not chosen or not rejected:
        counts.dropped += 1
        return None
    counts.truncated += too_long
    counts.truncated_prompts += cut_prompt
    counts.kept += 1
    return EncodedPair(prompt, chosen, rejected)


def encoded_rows(rows: Iterable[Row], encode: Callable[[list[Row]], list[Any]], counts: DataCounts) -> Iterator[Any]:
    """Encodes in batches, which the tokenizer spreads over threads; a row that fails is named."""
    source = iter(rows)
    while batch := list(islice(source, BATCH_ROWS)):
        try:
            yield from encode(batch)
        except Exception:
            yield from _one_by_one(batch, encode, counts.rows)
        counts.rows += len(batch)


def _one_by_one(batch: list[Row], encode: Callable[[list[Row]], list[Any]], before: int) -> Iterator[Any]:
    for i, row in enumerate(batch):
        try:
            yield from encode([row])
        except Exception as error:
            number = before + i + 1
            message = f"row {number} cannot be tokenized: {error}"
            raise InvalidDataset(message, fields=[FieldError(f"rows[{number - 1}]", str(error), row=number)]) from error


def some_left(counts: DataCounts, kept: Sequence[object], max_length: int) -> None:
    """Raises InvalidDataset where no row is left, saying why."""
    if kept:
        return
    why = f"all {counts.rows} rows were dropped, {counts.dropped_overlength} of them longer than {max_length} tokens"
    raise InvalidDataset(
        f"nothing is left of the {counts.split} data: {why if counts.rows else 'it has no rows'}",
        hint="raise max_seq_length, or set filter_overlength_samples to false to cut long rows",
    )


def integer_lists(columns: Mapping[str, Sequence[Sequence[int] | np.ndarray]]) -> pa.Table:
    """A table whose columns hold lists of 32-bit integers, made without a Python object per token."""
    arrays = {}
    for name, values in columns.items():
        offsets = np.zeros(len(values) + 1, np.int64)
        np.cumsum([len(value) for value in values], out=offsets[1:])
        flat = np.concatenate([np.asarray(value, np.int32) for value in values]) if values else np.zeros(0, np.int32)
        arrays[name] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))
    return pa.table(arrays)


def split_rows(dataset: Any) -> tuple[Iterable[Row], Iterable[Row] | None]:
    """Training and evaluation rows of what a script hands over: a dataset, a dict of splits, or rows."""
    if isinstance(dataset, Mapping):
        if "train" not in dataset:
            raise InvalidDataset(f"the dataset has the splits {', '.join(dataset)} and no `train`")
        names = ("eval", "validation", "test")
        return dataset["train"], next((dataset[name] for name in names if dataset.get(name) is not None), None)
    return dataset, None
