"""Rows as other tools write them are recognised, become what is trained on, and are refused with file, row and cure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opensloth.datasets.canonical import CanonicalRows, FileRows
from opensloth.datasets.encode import encode_sft
from opensloth.datasets.forms import choose_form
from opensloth.errors import InvalidDataset, InvalidInput
from tests.support.datasets import check_file
from tests.support.tiny_model import make_tokenizer

USER = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "Hello!"}
BAD = {"role": "assistant", "content": "What?"}
SYSTEM = {"role": "system", "content": "Be kind."}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {}}}

FOREIGN = [
    ("sft", "alpaca", {"instruction": "Hi", "input": "", "output": "Hello!"}, {"messages": [USER, GOOD]}),
    (
        "sft",
        "alpaca",
        {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be kind."},
        {
            "messages": [
                SYSTEM,
                {"role": "user", "content": "Add\n\n1 2"},
                {"role": "assistant", "content": "3"},
            ]
        },
    ),
    (
        "sft",
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}], "system": "Be kind."},
        {"messages": [SYSTEM, USER, GOOD]},
    ),
    (
        "sft",
        "messages",
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be kind."}]}, USER, GOOD]},
        {"messages": [SYSTEM, USER, GOOD]},
    ),
    (
        "dpo",
        "openai_preference",
        {
            "input": {"messages": [USER], "tools": [TOOL], "parallel_tool_calls": True},
            "preferred_output": [GOOD],
            "non_preferred_output": [BAD],
        },
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "tools": [TOOL]},
    ),
    (
        "dpo",
        "whole_preference",
        {"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD], "score": 3},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "score": 3},
    ),
    (
        "orpo",
        "sharegpt_preference",
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello!"},
            "rejected": {"from": "gpt", "value": "What?"},
        },
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    ),
]


def write(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("method", "form", "row", "canonical"), FOREIGN)
def test_a_row_of_another_tool_is_recognised_and_converted(tmp_path, method, form, row, canonical):
    path = write(tmp_path, row, row)
    found = check_file(path)
    assert (found.form, found.methods[method].form, found.methods[method].ok) == (form, form, True)
    assert list(CanonicalRows(FileRows(path, "jsonl", "rows.jsonl"), method)) == [canonical, canonical]


def test_a_tool_call_gets_arguments_that_templates_can_write():
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
    row = {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "12:00", "tool_call_id": "1"},
            GOOD,
        ],
        "functions": [TOOL["function"]],
    }
    (done,) = CanonicalRows([row], "sft")
    assert done["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"zone": "UTC"}
    assert done["tools"] == [TOOL]


def test_an_answer_of_weight_0_is_not_trained_on():
    tokenizer = make_tokenizer()
    row = {"messages": [USER, {**BAD, "weight": 0}, USER, {**GOOD, "weight": 1}]}
    (done,) = encode_sft(list(CanonicalRows([row], "sft")), tokenizer, None)
    trained = tokenizer.decode([label for label in done.labels if label >= 0])
    assert trained == "Hello!<|im_end|>"
    (everything,) = encode_sft(list(CanonicalRows([row], "sft")), tokenizer, "all")
    text = tokenizer.decode([label for label in everything.labels if label >= 0])
    assert "Hello!" in text
    assert "What?" not in text


@pytest.mark.parametrize(
    ("method", "row", "column", "words"),
    [
        ("sft", {"instruction": "Hi", "output": " "}, "output", "is empty"),
        ("sft", {"instruction": "Hi", "input": 3, "output": "x"}, "input", "must be text"),
        ("sft", {"conversations": [{"from": "human", "value": "Hi"}]}, "conversations", "add the assistant's answer"),
        ("sft", {"conversations": [{"from": "gpt", "value": "Hi"}]}, "conversations[0].from", "out of order"),
        (
            "sft",
            {"conversations": [{"from": "human", "value": 1}, {"from": "gpt", "value": "x"}]},
            "conversations[0].value",
            "must be text",
        ),
        ("sft", {"messages": [USER, {**GOOD, "weight": 0.5}]}, "messages[1].weight", "must be 0"),
        ("sft", {"messages": [USER, {**GOOD, "weight": 0}]}, "messages", "nothing of this row"),
        ("sft", {"messages": [USER, GOOD], "tools": "nonsense"}, "tools", "not JSON"),
        ("dpo", {"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "rejected", "identical"),
        ("dpo", {"chosen": [USER, GOOD], "rejected": [{**USER, "content": "?"}, BAD]}, "rejected", "begin with"),
        ("dpo", {"input": {}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}, "input.messages", "missing"),
        (
            "dpo",
            {"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [GOOD]},
            "non_preferred_output",
            "identical",
        ),
    ],
)
def test_an_unfit_row_of_another_tool_is_named_by_its_own_columns(tmp_path, method, row, column, words):
    path = write(tmp_path, row)
    error = check_file(path).methods[method].errors[0]
    assert (error.row, error.column) == (1, column)
    assert words in error.message
    with pytest.raises(InvalidDataset, match=r"rows\.jsonl: row 1: ") as caught:
        list(CanonicalRows(FileRows(path, "jsonl", "rows.jsonl"), method))
    assert caught.value.hint


def test_the_form_is_what_most_of_the_first_rows_have_and_can_be_overridden(tmp_path):
    both = {"messages": [USER, GOOD], "instruction": "Hi", "output": "Hello!"}
    path = write(tmp_path, {"text": "a stray row", "messages": None}, both, both)
    found = check_file(path).methods["sft"]
    assert (found.form, found.bad_rows, found.errors[0].row) == ("messages", 1, 1)
    path = write(tmp_path, both, {**both, "messages": [USER]})
    found = check_file(path).methods["sft"]
    assert (found.form, found.ok, found.forms["alpaca"].ok) == ("messages", False, True)
    assert len(list(CanonicalRows(FileRows(path, "jsonl", "rows"), "sft", "alpaca"))) == 2
    with pytest.raises(InvalidInput, match="alpaca"):
        list(CanonicalRows(FileRows(path, "jsonl", "rows"), "sft", "alpacca"))


def test_rows_for_reinforcement_keep_what_graders_read_beside_their_prompt():
    row = {
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
        "reference_answer": "2",
        "tools": [],
    }
    form = choose_form("grpo", [row])
    assert form is not None
    assert form.check(row) is None
    made = form.convert(row)
    assert made["prompt"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    assert made["reference_answer"] == "2"
    answered = {"messages": [*row["messages"], {"role": "assistant", "content": "2"}]}
    assert choose_form("grpo", [answered]) is None
    assert choose_form("sft", [answered]) is not None


def test_a_refusal_is_what_the_assistant_said():
    row = {"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "refusal": "No.", "content": None}]}
    form = choose_form("sft", [row])
    assert form is not None
    assert form.convert(row)["messages"][1] == {"role": "assistant", "content": "No."}
