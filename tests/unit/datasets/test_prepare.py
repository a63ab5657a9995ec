"""Rows that are too long are left out or cut as the config says, and every row is accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from opensloth.datasets.canonical import CanonicalRows, FileRows
from opensloth.datasets.encode import IGNORE
from opensloth.datasets.prepare import prepare_dpo, prepare_sft, split_rows
from opensloth.datasets.prompts import prepare_grpo
from opensloth.datasets.split import with_eval_split
from opensloth.datasets.unpaired import prepare_kto
from opensloth.errors import InvalidDataset
from opensloth.rewards import RewardPolicy, build_rewards
from opensloth.training.failures import describe
from tests.support.tiny_model import make_tokenizer

TOKENIZER = make_tokenizer()
END = TOKENIZER.eos_token_id


def completion(length: int) -> dict[str, str]:
    """A row of 2 + `length` + 1 tokens: the prompt, the answer, the end."""
    return {"prompt": "p:", "completion": "x" * length}


def pair(prompt: int, chosen: int, rejected: int) -> dict[str, str]:
    """A pair of so many tokens each; the end of an answer is one of them."""
    letters = "".join(chr(ord("a") + i % 26) for i in range(prompt))
    return {"prompt": letters, "chosen": "C" * (chosen - 1), "rejected": "R" * (rejected - 1)}


def test_a_row_that_is_too_long_is_left_out_and_counted() -> None:
    prepared = prepare_sft([completion(5), completion(50)], TOKENIZER, max_length=20)
    counts = prepared.counts
    assert (counts.rows, counts.kept, counts.dropped, counts.dropped_overlength) == (2, 1, 1, 1)
    assert (counts.tokens, counts.trained_tokens) == (8, 6)
    assert [len(row["input_ids"]) for row in prepared.dataset] == [8]


def test_a_truncated_row_is_counted() -> None:
    prepared = prepare_sft([completion(5), completion(50)], TOKENIZER, max_length=20, filter_overlength=False)
    counts = prepared.counts
    assert (counts.rows, counts.kept, counts.dropped, counts.truncated) == (2, 2, 0, 1)
    assert [len(row["input_ids"]) for row in prepared.dataset] == [8, 20]


def test_a_row_whose_answer_was_cut_off_whole_is_dropped() -> None:
    rows = [{"prompt": "p" * 30, "completion": "x"}, completion(5)]
    counts = prepare_sft(rows, TOKENIZER, max_length=20, filter_overlength=False).counts
    assert (counts.kept, counts.dropped, counts.dropped_overlength, counts.truncated) == (1, 1, 0, 1)


def test_a_packed_row_holds_whole_samples_in_order_of_length() -> None:
    prepared = prepare_sft([completion(n) for n in (2, 9, 4)], TOKENIZER, max_length=20, packing=True)
    assert prepared.counts.packed_rows == 2
    assert [row["seq_lengths"] for row in prepared.dataset] == [[12, 7], [5]]
    row = prepared.dataset[0]
    starts = [0, 12]
    assert all(row["labels"][start] == IGNORE for start in starts)
    assert row["input_ids"][11] == row["labels"][11] == row["input_ids"][18] == END


def test_nothing_left_is_an_invalid_dataset() -> None:
    with pytest.raises(InvalidDataset, match="all 2 rows were dropped, 2 of them longer"):
        prepare_sft([completion(50)] * 2, TOKENIZER, max_length=10)
    with pytest.raises(InvalidDataset, match="it has no rows"):
        prepare_sft([], TOKENIZER, max_length=10)


@pytest.mark.parametrize(
    ("method", "prepare", "field", "row"),
    [
        ("sft", partial(prepare_sft, max_length=10), "fast_model_args.max_seq_length", completion(50)),
        ("dpo", partial(prepare_dpo, max_length=10), "dpo_args.max_length", pair(9, 9, 9)),
        (
            "orpo",
            partial(prepare_dpo, max_length=10, limit_field="orpo_args.max_length"),
            "orpo_args.max_length",
            pair(9, 9, 9),
        ),
        ("kto", partial(prepare_kto, max_length=10), "kto_args.max_length", {**completion(50), "label": True}),
        (
            "grpo",
            partial(prepare_grpo, rewards=build_rewards(["exact_match"], RewardPolicy()), max_prompt_length=10),
            "grpo_args.max_prompt_length",
            {"prompt": "p" * 50, "answer": "4"},
        ),
    ],
    ids=["sft", "dpo", "orpo", "kto", "grpo"],
)
def test_where_all_rows_are_too_long_the_file_and_the_limits_own_field_are_named(
    tmp_path: Path, method: str, prepare: Callable[..., Any], field: str, row: dict[str, Any]
) -> None:
    path = write_jsonl(tmp_path, [row] * 3)
    rows = CanonicalRows(FileRows(path, "jsonl", path.name), method)
    with pytest.raises(InvalidDataset) as caught:
        prepare(rows, TOKENIZER)
    failure = describe(caught.value, "preparing_data")
    dropped = f"all 3 rows were dropped, 3 of them longer than {field} = 10 tokens"
    assert failure.message == f"rows.jsonl: nothing is left of the train data: {dropped}"
    assert failure.hint == f"raise {field}, or set filter_overlength_samples to false to cut long rows"


def test_where_no_row_has_anything_to_train_on_no_length_is_blamed() -> None:
    rows = [{"input_ids": [1, 2, 3], "labels": [IGNORE] * 3}]
    with pytest.raises(InvalidDataset, match="none of its 1 rows has a token to train on") as caught:
        prepare_sft(rows, TOKENIZER, max_length=10)
    assert "raise" not in (caught.value.hint or "")


def test_a_row_that_cannot_be_tokenized_is_named() -> None:
    rows: list[dict[str, Any]] = [{"text": "a"}] * 300 + [{"texts": "a"}]
    with pytest.raises(InvalidDataset) as caught:
        prepare_sft(rows, TOKENIZER, max_length=10)
    assert caught.value.fields[0].row == 301


def test_of_a_long_prompt_the_end_is_kept() -> None:
    rows = [pair(prompt=30, chosen=5, rejected=3)]
    prepared = prepare_dpo(rows, TOKENIZER, max_length=20, max_prompt_length=8)
    (row,) = prepared.dataset
    assert TOKENIZER.decode(row["prompt_ids"]) == rows[0]["prompt"][-8:]
    assert TOKENIZER.decode(row["chosen_ids"]) == "CCCC<|im_end|>"
    assert (prepared.counts.kept, prepared.counts.truncated_prompts, prepared.counts.truncated) == (1, 1, 0)


def test_without_a_limit_the_prompt_stays_whole() -> None:
    (row,) = prepare_dpo([pair(12, 3, 3)], TOKENIZER, max_length=20).dataset
    assert len(row["prompt_ids"]) == 12


def test_a_pair_of_which_one_answer_is_too_long_is_left_out_or_both_are_cut() -> None:
    rows = [pair(8, 5, 3), pair(8, 5, 30)]
    counts = prepare_dpo(rows, TOKENIZER, max_length=20, max_prompt_length=8).counts
    assert (counts.rows, counts.kept, counts.dropped, counts.dropped_overlength) == (2, 1, 1, 1)
    cut = prepare_dpo(rows, TOKENIZER, max_length=20, max_prompt_length=8, filter_overlength=False)
    assert (cut.counts.kept, cut.counts.truncated) == (2, 1)
    assert len(cut.dataset[1]["rejected_ids"]) == 12
    assert len(cut.dataset[1]["chosen_ids"]) == 5


def test_a_pair_without_room_for_an_answer_is_dropped_even_where_rows_are_cut() -> None:
    rows = [pair(25, 5, 5), pair(8, 5, 3)]
    counts = prepare_dpo(rows, TOKENIZER, max_length=20, filter_overlength=False).counts
    assert (counts.kept, counts.dropped) == (1, 1)


def test_preferences_in_messages_end_the_prompt_where_the_assistant_begins() -> None:
    row = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Yo"}],
        "rejected": [{"role": "assistant", "content": "No"}],
    }
    (encoded,) = prepare_dpo([row], TOKENIZER, max_length=100).dataset
    assert TOKENIZER.decode(encoded["prompt_ids"]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert TOKENIZER.decode(encoded["chosen_ids"]) == "Yo<|im_end|>\n"


def test_each_row_of_an_evaluation_of_kto_has_the_answer_of_the_row_before_and_the_first_that_of_the_last() -> None:
    rows = [{"prompt": f"p{n}", "completion": "x" * n, "label": n % 2 == 0} for n in range(1, 1200)]
    plain = prepare_kto(rows, TOKENIZER, max_length=4000).dataset
    assert plain.column_names == ["prompt_ids", "completion_ids", "label"]
    found = prepare_kto(rows, TOKENIZER, max_length=4000, split="eval").dataset
    answers = [len(ids) for ids in found["completion_ids"]]
    assert answers == [*range(3, 1201), 2]
    assert [len(ids) for ids in found["KL_completion_ids"]] == [*range(2, 1200), 1200]
    assert found["label"][:2] == [True, False]


def test_data_comes_as_rows_a_dataset_or_splits() -> None:
    rows = [{"text": "a"}]
    assert split_rows(rows) == (rows, None)
    dataset = Dataset.from_list(rows)
    assert split_rows(dataset) == (dataset, None)
    both = DatasetDict(train=dataset, test=dataset)
    assert [list(part) for part in split_rows(both) if part is not None] == [rows, rows]
    with pytest.raises(InvalidDataset, match="no `train`"):
        split_rows({"test": rows})


def test_helpers_prepare_the_same_rows_in_the_same_order_as_one_process(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}", "output": "x" * (n % 9 + 1)} for n in range(1500)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = (
        prepare_sft(CanonicalRows(FileRows(path, "jsonl", path.name), "sft"), TOKENIZER, max_length=200, processes=n)
        for n in (1, 2)
    )
    assert one.counts == two.counts
    assert one.dataset.to_list() == two.dataset.to_list()


def test_a_row_that_a_helper_refuses_is_named_with_its_file(tmp_path: Path) -> None:
    rows = [{"instruction": "Say", "output": "x"}] * 1300 + [{"instruction": "Say", "output": 5}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InvalidDataset, match=r"rows\.jsonl: row 1301: `output` must be text") as caught:
        prepare_sft(CanonicalRows(FileRows(path, "jsonl", path.name), "sft"), TOKENIZER, max_length=200, processes=2)
    assert caught.value.fields[0].row == 1301


def test_a_share_for_evaluation_is_drawn_from_the_file_and_converted_in_the_helpers(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}", "output": "x" * (n % 9 + 1)} for n in range(3000)]
    path = write_jsonl(tmp_path, rows)
    seen = []
    for processes in (1, 2):
        parts = with_eval_split(CanonicalRows(FileRows(path, "jsonl", path.name), "sft"), 0.4, seed=1)
        seen.append(
            {name: prepare_sft(part, TOKENIZER, max_length=200, processes=processes) for name, part in parts.items()}
        )
    one, two = seen
    assert {name: part.counts.rows for name, part in one.items()} == {"train": 1800, "eval": 1200}
    for name in ("train", "eval"):
        assert one[name].counts == two[name].counts
        assert one[name].dataset.to_list() == two[name].dataset.to_list()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_row_of_a_share_is_named_by_its_number_in_the_file(tmp_path: Path, processes: int) -> None:
    rows: list[dict[str, Any]] = [{"instruction": "Say", "output": "x"}] * 5000
    rows[4001] = {"instruction": "Say", "output": 5}
    path = write_jsonl(tmp_path, rows)
    parts = with_eval_split(CanonicalRows(FileRows(path, "jsonl", path.name), "sft"), 0.5, seed=1)
    refusals = []
    for part in parts.values():
        try:
            prepare_sft(part, TOKENIZER, max_length=200, processes=processes)
        except InvalidDataset as error:
            refusals.append(error)
    (refusal,) = refusals
    assert refusal.message == "rows.jsonl: row 4002: `output` must be text and is a number"
    assert refusal.fields[0].row == 4002


@pytest.mark.parametrize("processes", [1, 2])
def test_a_prompt_that_a_reward_cannot_judge_is_named_with_its_file(tmp_path: Path, processes: int) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "How?", "answer": "so"}] * 1500
    rows[1400] = {"prompt": "How?", "answer": None}
    path = write_jsonl(tmp_path, rows)
    rewards = build_rewards(["exact_match"], RewardPolicy())
    source = CanonicalRows(FileRows(path, "jsonl", path.name), "grpo")
    with pytest.raises(InvalidDataset, match=r"^rows\.jsonl: row 1401: reward 'exact_match' needs column `answer`"):
        prepare_grpo(source, TOKENIZER, rewards, processes=processes)


def write_jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
