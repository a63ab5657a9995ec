"""A script reads every form from every container as a job's trainer does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from opensloth.datasets.canonical import CanonicalRows, FileRows
from opensloth.script_parts.carry import Carried
from opensloth.script_parts.data import IMPORTS, DataFile, data_source
from tests.support.scripts import run_source, write_rows

USER = {"role": "user", "content": "Grüß „Ω“ \u2028 \U0001f9a5"}
GOOD = {"role": "assistant", "content": 'Hello, "you"\nthere'}
BAD = {"role": "assistant", "content": "What?"}
CALL = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
OBJECT = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}

FORMS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "text": ("sft", [{"text": "Once, upon\na time", "a, column": 'x"y'}, {"text": "Ends", "a, column": ""}]),
    "alpaca": (
        "sft",
        [
            {"instruction": "Hi", "input": "", "output": "Hello!", "system": "", "straße": "1"},
            {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be kind.", "straße": "2"},
        ],
    ),
    "input_ids": ("sft", [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [5, 6], "labels": [5, 6]}]),
    "messages": (
        "sft",
        [
            {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "12"}, GOOD]},
            {"messages": [USER, {"role": "assistant", "tool_calls": [OBJECT]}, {"role": "tool", "content": ""}, GOOD]},
            {"messages": [{**USER, "name": "Ann"}, {**BAD, "weight": 0}, USER, {**GOOD, "weight": 1}], "tools": [TOOL]},
            {"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be kind."}]}, USER, GOOD]},
            {"messages": [USER, GOOD], "functions": [{"name": "clock"}], "tools": None},
        ],
    ),
    "sharegpt": (
        "sft",
        [
            {
                "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}],
                "system": "Be kind.",
                "tools": '[{"type": "function", "function": {"name": "clock"}}]',
            },
            {
                "conversations": [
                    {"from": "human", "value": "When?"},
                    {"from": "function_call", "value": '{"name": "clock", "arguments": {}}'},
                    {"from": "observation", "value": "12"},
                    {"from": "gpt", "value": "Noon"},
                ],
                "system": None,
                "tools": "",
            },
        ],
    ),
    "prompt_completion": ("sft", [{"prompt": "a b ", "completion": " c"}, {"prompt": "d", "completion": "e"}]),
    "openai_preference": (
        "dpo",
        [
            {
                "input": {"messages": [USER], "tools": [TOOL], "parallel_tool_calls": True},
                "preferred_output": [GOOD],
                "non_preferred_output": [BAD],
            }
        ],
    ),
    "whole_preference": ("orpo", [{"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, GOOD, USER, BAD]}]),
    "sharegpt_preference": (
        "dpo",
        [
            {
                "conversations": [{"from": "human", "value": "Hi"}],
                "chosen": {"from": "gpt", "value": "Hello!"},
                "rejected": {"from": "gpt", "value": "No"},
            }
        ],
    ),
    "preference": ("orpo", [{"prompt": "a", "chosen": " b", "rejected": " c"}]),
    "labelled": ("kto", [{"prompt": [USER], "completion": [GOOD], "label": False}]),
    "prompt": ("grpo", [{"prompt": [USER], "answer": 4, "prompts": "odd", "completions": None}]),
}
PLAIN_TEXT = ("text", "alpaca", "prompt_completion", "preference")
"""Forms whose values are all text, as in CSV."""


def read(path: Path, training_type: str, file: DataFile) -> list[dict[str, Any]]:
    """What the script's source reads, run where nothing of the package is."""
    data = data_source(training_type, file, None)
    carried = Carried(data.roots)
    code = f"{carried.source}\n\n\n{data.source}"
    rows: list[dict[str, Any]] = run_source(code, [*IMPORTS, *carried.imports])["read_rows"](str(path))
    return rows


@pytest.mark.parametrize("form", FORMS)
def test_a_script_reads_what_the_job_trained_on(form: str, tmp_path: Path) -> None:
    training_type, rows = FORMS[form]
    containers = ["jsonl", "json", "parquet", *(["csv"] if form in PLAIN_TEXT else [])]
    for container in containers:
        for packed in (None, "gzip", "zstd") if container != "parquet" else (None,):
            path = tmp_path / f"{container}-{packed}"
            # A column of Parquet has one type, which not all of these messages fit into.
            fitting = rows[2:3] if container == "parquet" and form == "messages" else rows
            write_rows(path, fitting, container, packed)
            expected = list(CanonicalRows(FileRows(path, container, path.name), training_type))
            assert expected
            for known in (form, None):
                assert read(path, training_type, DataFile(path.name, container, known)) == expected, path.name


def test_a_script_has_the_form_of_its_job_alone() -> None:
    source = Carried(data_source("sft", DataFile("a", form="alpaca"), None).roots).source
    assert "def alpaca" in source
    assert "def sharegpt" not in source
    assert "def to_messages" not in source


def test_of_a_form_that_was_chosen_by_hand_the_script_follows_the_choice(tmp_path: Path) -> None:
    rows = [{"text": "as it stands", "instruction": "Hi", "output": "Hello!"}]
    path = tmp_path / "rows"
    write_rows(path, rows, "jsonl")
    expected = list(CanonicalRows(FileRows(path, "jsonl", "rows"), "sft", "text"))
    assert read(path, "sft", DataFile("rows", form="text")) == expected
    assert "messages" in read(path, "sft", DataFile("rows"))[0]


def test_a_long_field_of_a_table_is_read(tmp_path: Path) -> None:
    rows = [{"text": "word " * 60_000}]
    path = tmp_path / "rows.csv"
    write_rows(path, rows, "csv")
    assert read(path, "sft", DataFile("rows.csv", "csv", "text")) == rows


def test_two_files_are_read_each_in_its_own_way() -> None:
    source = data_source("sft", DataFile("a", "csv", "alpaca"), DataFile("b", "parquet", "messages")).source
    assert re.findall(r"^def (\w+)", source, re.MULTILINE) == ["text_of_file", "read_rows", "read_eval_rows"]
    assert "[alpaca(row)" in source
    assert "[chat(row)" in source
