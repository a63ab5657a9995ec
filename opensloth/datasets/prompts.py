"""Rows with a prompt and what rewards read, as GRPO trains on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from datasets import Dataset

from opensloth.datasets.encode import Row, encode_prompts
from opensloth.datasets.prepare import DataCounts, Prepared, encoded_rows, some_left
from opensloth.errors import FieldError, InvalidDataset
from opensloth.rewards import BoundReward


def prepare_grpo(
    rows: Iterable[Row],
    tokenizer: Any,
    rewards: Sequence[BoundReward],
    *,
    max_prompt_length: int | None = None,
    filter_overlength: bool = True,
    split: str = "train",
) -> Prepared:
    """A column `row`: the prompt and what the rewards read, as JSON, so that a value keeps its type in every row.

    A prompt of more than `max_prompt_length` tokens is left out; if `filter_overlength` is false its last tokens are
    what answers are sampled to. Raises InvalidDataset for a row that a reward cannot judge or that cannot be
    tokenized, and when no row is left.
    """
    counts = DataCounts(split)
    kept: list[str] = []

    def encode(batch: list[Row]) -> list[tuple[Row, int]]:
        lengths = [len(ids) for ids in encode_prompts(batch, tokenizer)]
        return list(zip(batch, lengths, strict=True))

    number = 0
    for row, length in encoded_rows(rows, encode, counts):
        number += 1
        _can_be_judged(row, number, rewards)
        long = max_prompt_length is not None and length > max_prompt_length
        if long and filter_overlength:
            counts.dropped += 1
            counts.dropped_overlength += 1
            continue
        counts.truncated_prompts += long
        counts.kept += 1
        counts.tokens += min(length, max_prompt_length or length)
        kept.append(json.dumps(_needed(row, rewards), ensure_ascii=False, default=str))
    some_left(counts, kept, max_prompt_length or 0)
    return Prepared(Dataset.from_dict({"row": kept}), counts)


def _needed(row: Row, rewards: Sequence[BoundReward]) -> dict[str, Any]:
    columns = {"prompt", "tools", "chat_template_kwargs"}
    for reward in rewards:
        if reward.reward.reads_all:
            return dict(row)
        columns |= {*reward.columns, *reward.reward.optional_columns(reward.params)}
    return {name: value for name, value in row.items() if name in columns}


def _can_be_judged(row: Row, number: int, rewards: Sequence[BoundReward]) -> None:
    for reward in rewards:
        problem = reward.row_problem(row)
        if problem is not None:
            raise InvalidDataset(
                f"row {number}: {problem}", fields=[FieldError(f"rows[{number - 1}]", problem, row=number)]
            )
