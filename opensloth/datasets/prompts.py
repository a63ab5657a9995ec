"""Rows with a prompt and what rewards read, as GRPO trains on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from opensloth.datasets.encode import encode_answers
from opensloth.datasets.encode_rows import RowRefused, encoded_rows
from opensloth.datasets.prepare import some_left
from opensloth.datasets.prepared import DataCounts, Prepared, keep
from opensloth.datasets.row_text import Row
from opensloth.datasets.unpaired import WINDOW_ROWS
from opensloth.rewards import BoundReward


def prepare_grpo(
    rows: Iterable[Row],
    tokenizer: Any,
    rewards: Sequence[BoundReward],
    *,
    max_prompt_length: int | None = None,
    filter_overlength: bool = True,
    split: str = "train",
    processes: int | None = None,
) -> Prepared:
    """A column `row`: the prompt and what the rewards read, as JSON, so that a value keeps its type in every row.

    A prompt of more than `max_prompt_length` tokens is left out; if `filter_overlength` is false its last tokens are
    what answers are sampled to. Raises InvalidDataset for a row that a reward cannot judge or that cannot be
    tokenized, and when no row is left.
    """
    counts = DataCounts(split)

    def encode(batch: list[Row]) -> list[tuple[str, int]]:
        for row in batch:
            _must_be_judged(row, rewards)
        lengths = [len(ids) for ids, _ in encode_answers(batch, tokenizer, ())]
        needed = [json.dumps(_needed(row, rewards), ensure_ascii=False, default=str) for row in batch]
        return list(zip(needed, lengths, strict=True))

    def tables() -> Iterator[pa.Table]:
        kept: list[str] = []
        for row, length in encoded_rows(rows, encode, counts, processes):
            long = max_prompt_length is not None and length > max_prompt_length
            if long and filter_overlength:
                counts.dropped += 1
                counts.dropped_overlength += 1
                continue
            counts.truncated_prompts += long
            counts.kept += 1
            counts.tokens += min(length, max_prompt_length or length)
            kept.append(row)
            if len(kept) == WINDOW_ROWS:
                yield pa.table({"row": kept})
                kept = []
        some_left(counts, rows, "grpo_args.max_prompt_length", max_prompt_length, filter_overlength)
        if kept:
            yield pa.table({"row": kept})

    options = {"method": "grpo", "max_prompt_length": max_prompt_length, "filter_overlength": filter_overlength}
    return keep(rows, tokenizer, counts, tables, options | {"rewards": [_what_it_takes(reward) for reward in rewards]})


def _what_it_takes(reward: BoundReward) -> list[Any]:
    """Everything of a reward that decides which rows are kept and what of them; its weight does not."""
    columns = [*reward.columns, *reward.reward.optional_columns(reward.params)]
    return [reward.spec.name, reward.spec.params, columns, reward.reward.reads_all]


def _needed(row: Row, rewards: Sequence[BoundReward]) -> dict[str, Any]:
    columns = {"prompt", "tools", "chat_template_kwargs"}
    for reward in rewards:
        if reward.reward.reads_all:
            return dict(row)
        columns |= {*reward.columns, *reward.reward.optional_columns(reward.params)}
    return {name: value for name, value in row.items() if name in columns}


def _must_be_judged(row: Row, rewards: Sequence[BoundReward]) -> None:
    for reward in rewards:
        problem = reward.row_problem(row)
        if problem is not None:
            raise RowRefused(problem)
