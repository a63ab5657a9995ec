"""Raw rows to the dataset that a trainer reads: tokenized, cut or filtered by length, packed, and counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from opensloth.datasets.encode import IGNORE, Encoded, EncodedPair, encode_dpo, encode_sft
from opensloth.datasets.encode_rows import encoded_rows
from opensloth.datasets.pack import WINDOW_TOKENS, ends_window, pack
from opensloth.datasets.prepared import DataCounts, Prepared, integer_lists, keep, lists_of
from opensloth.datasets.row_text import Row
from opensloth.errors import InvalidDataset

Sample = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Samples:
    """Token ids and labels of several rows, one behind the other; `lengths` are in tokens.

    Unlike a list for each row this is quickly sent to another process.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    lengths: list[int]

    @classmethod
    def of(cls, encoded: Sequence[Encoded]) -> Samples:
        """The same rows as arrays."""
        lengths = [len(row.input_ids) for row in encoded]
        tokens = sum(lengths)
        input_ids = np.fromiter(chain.from_iterable(row.input_ids for row in encoded), np.int32, tokens)
        labels = np.fromiter(chain.from_iterable(row.labels for row in encoded), np.int32, tokens)
        return cls(input_ids, labels, lengths)

    def __iter__(self) -> Iterator[Sample]:
        start = 0
        for length in self.lengths:
            yield self.input_ids[start : start + length], self.labels[start : start + length]
            start += length


def prepare_sft(
    rows: Iterable[Row],
    tokenizer: Any,
    *,
    max_length: int,
    loss_on: str | None = None,
    filter_overlength: bool = True,
    packing: bool = False,
    split: str = "train",
    processes: int | None = None,
) -> Prepared:
    """Columns `input_ids` and `labels`, and `seq_lengths` (tokens of each sample in the row) when packed.

    A row of more than `max_length` tokens is left out, or cut there if `filter_overlength` is false. Raises
    InvalidDataset for a row that cannot be tokenized and when no row is left.
    """
    counts = DataCounts(split)

    def encode(batch: list[Row]) -> Samples:
        return Samples.of(encode_sft(batch, tokenizer, loss_on))

    def tables() -> Iterator[pa.Table]:
        encoded = encoded_rows(rows, encode, counts, processes)
        for window in _windows(encoded, max_length, filter_overlength, counts):
            yield _packed(window, max_length, counts) if packing else _as_rows(window)
        some_left(counts, rows, "fast_model_args.max_seq_length", max_length, filter_overlength)

    options = {"method": "sft", "max_length": max_length, "loss_on": loss_on, "packing": packing}
    return keep(rows, tokenizer, counts, tables, {**options, "filter_overlength": filter_overlength})


def prepare_dpo(
    rows: Iterable[Row],
    tokenizer: Any,
    *,
    max_length: int,
    max_prompt_length: int | None = None,
    filter_overlength: bool = True,
    limit_field: str = "dpo_args.max_length",
    split: str = "train",
    processes: int | None = None,
) -> Prepared:
    """Columns `prompt_ids`, `chosen_ids` and `rejected_ids`.

    Of a longer prompt the last `max_prompt_length` tokens are kept. A pair of which one answer then ends beyond
    `max_length`, which the config calls `limit_field`, is left out, or its answers are cut there if
    `filter_overlength` is false. Raises InvalidDataset for a row that cannot be tokenized and when no row is left.
    """
    counts = DataCounts(split)

    def tables() -> Iterator[pa.Table]:
        encoded = encoded_rows(rows, lambda batch: encode_dpo(batch, tokenizer), counts, processes)
        yield from pair_tables(_fitting_pairs(encoded, max_length, max_prompt_length, filter_overlength, counts))
        some_left(counts, rows, limit_field, max_length, filter_overlength)

    options = {"method": "dpo", "max_length": max_length, "max_prompt_length": max_prompt_length}
    return keep(rows, tokenizer, counts, tables, {**options, "filter_overlength": filter_overlength})


def _windows(
    samples: Iterable[Sample], max_length: int, filter_overlength: bool, counts: DataCounts
) -> Iterator[list[Sample]]:
    """The samples that are kept, in the windows in which `pack` looks at them."""
    window: list[Sample] = []
    tokens = 0
    for sample in samples:
        cut = _fit_sample(sample, max_length, filter_overlength, counts)
        if cut is None:
            continue
        window.append(cut)
        tokens += len(cut[0])
        if ends_window(tokens, len(window), max_length):
            yield window
            window, tokens = [], 0
    if window:
        yield window


def _as_rows(window: list[Sample]) -> pa.Table:
    return integer_lists({"input_ids": [ids for ids, _ in window], "labels": [labels for _, labels in window]})


def _packed(window: list[Sample], max_length: int, counts: DataCounts) -> pa.Table:
    lengths = [len(ids) for ids, _ in window]
    groups = pack(lengths, max_length)
    counts.packed_rows = (counts.packed_rows or 0) + len(groups)
    packed = [sum(lengths[i] for i in group) for group in groups]
    samples = [window[i] for group in groups for i in group]
    return pa.table(
        {
            "input_ids": lists_of(packed, [ids for ids, _ in samples]),
            "labels": lists_of(packed, [labels for _, labels in samples]),
            "seq_lengths": lists_of([len(group) for group in groups], [[len(ids) for ids, _ in samples]]),
        }
    )


def pair_tables(pairs: Iterable[EncodedPair]) -> Iterator[pa.Table]:
    """Tables with `prompt_ids`, `chosen_ids` and `rejected_ids`, each of a bounded number of tokens."""
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    window: list[EncodedPair] = []
    tokens = 0
    for pair in pairs:
        window.append(pair)
        tokens += len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)
        if tokens >= WINDOW_TOKENS:  # these are Python's integers
            yield integer_lists({name: [getattr(kept, name) for kept in window] for name in names})
            window, tokens = [], 0
    if window:
        yield integer_lists({name: [getattr(kept, name) for kept in window] for name in names})


def _fitting_pairs(
    pairs: Iterable[EncodedPair],
    max_length: int,
    max_prompt_length: int | None,
    filter_overlength: bool,
    counts: DataCounts,
) -> Iterator[EncodedPair]:
    for pair in pairs:
        cut = fit_pair(pair, max_length, max_prompt_length, filter_overlength, counts)
        if cut is not None:
            answers = len(cut.chosen_ids) + len(cut.rejected_ids)
            counts.tokens += 2 * len(cut.prompt_ids) + answers
            counts.trained_tokens += answers
            yield cut


def _fit_sample(sample: Sample, max_length: int, filter_overlength: bool, counts: DataCounts) -> Sample | None:
    ids, labels = sample
    if len(ids) > max_length:
        if filter_overlength:
            counts.dropped += 1
            counts.dropped_overlength += 1
            return None
        counts.truncated += 1
        ids, labels = ids[:max_length], labels[:max_length]
    trained = int(np.count_nonzero(labels != IGNORE))
    if not trained:
        counts.dropped += 1
        return None
    counts.kept += 1
    counts.tokens += len(ids)
    counts.trained_tokens += trained
    return ids, labels


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


def some_left(counts: DataCounts, rows: Any, field: str, limit: int | None, filter_overlength: bool) -> None:
    """Raises InvalidDataset where no row is left, naming the file and `field`, which allows `limit` tokens."""
    if counts.kept:
        return
    name = getattr(rows, "name", None)
    why, hint = "it has no rows", "add rows, or choose another eval_split"
    if counts.rows:
        long = counts.dropped_overlength
        why = f"all {counts.rows} rows were dropped, {long} of them longer than {field} = {limit} tokens"
        hint = f"raise {field}"
        if filter_overlength:
            hint += ", or set filter_overlength_samples to false to cut long rows"
        if not long and not counts.truncated:
            why, hint = f"none of its {counts.rows} rows has a token to train on", "write answers into the rows"
    message = f"nothing is left of the {counts.split} data: {why}"
    raise InvalidDataset(f"{name}: {message}" if isinstance(name, str) else message, hint=hint)


def split_rows(dataset: Any) -> tuple[Iterable[Row], Iterable[Row] | None]:
    """Training and evaluation rows of what a script hands over: a dataset, a dict of splits, or rows."""
    if isinstance(dataset, Mapping):
        if "train" not in dataset:
            raise InvalidDataset(f"the dataset has the splits {', '.join(dataset)} and no `train`")
        names = ("eval", "validation", "test")
        return dataset["train"], next((dataset[name] for name in names if dataset.get(name) is not None), None)
    return dataset, None
