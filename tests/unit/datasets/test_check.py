import json
import os
import sys
from pathlib import Path

import pytest

from opensloth.datasets import isolated
from opensloth.datasets.check import Checker
from opensloth.datasets.report import FileCheck
from opensloth.errors import InvalidDataset, TooLarge
from tests.support.datasets import check_file

SFT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
DPO = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def check(tmp_path: Path, content: bytes, name: str = "data.jsonl", max_line_bytes: int = 1 << 20) -> FileCheck:
    path = tmp_path / name
    path.write_bytes(content)
    return check_file(path, max_line_bytes=max_line_bytes)


def refusal(tmp_path: Path, content: bytes, name: str = "data.jsonl") -> InvalidDataset:
    with pytest.raises(InvalidDataset) as caught:
        check(tmp_path, content, name)
    return caught.value


def first_error(found: FileCheck, method: str) -> tuple[int, str | None, str]:
    error = found.methods[method].errors[0]
    return error.row, error.column, error.message


@pytest.mark.parametrize(
    ("row", "form", "method"),
    [
        (SFT, "messages", "sft"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion", "sft"),
        ({"prompt": SFT["messages"][:1], "completion": SFT["messages"][1:]}, "prompt_completion", "sft"),
        ({"text": "a"}, "text", "sft"),
        ({"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [1, 1, 1]}, "input_ids", "sft"),
        (DPO, "preference", "dpo"),
        (
            {
                "prompt": SFT["messages"][:1],
                "chosen": SFT["messages"][1:],
                "rejected": [{"role": "assistant", "content": "No"}],
            },
            "preference",
            "dpo",
        ),
    ],
)
def test_each_form_is_recognised_and_serves_its_method(tmp_path, row, form, method):
    found = check(tmp_path, lines(row, row))
    assert (found.form, found.rows, found.container) == (form, 2, "jsonl")
    assert found.methods[method].ok
    assert found.methods[method].form == form


@pytest.mark.parametrize(
    ("row", "method", "column", "words"),
    [
        ({"messages": []}, "sft", "messages", "empty list"),
        ({"messages": "hi"}, "sft", "messages", "list of messages"),
        ({"messages": ["hi"]}, "sft", "messages[0]", "object with `role`"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "sft", "messages[0].role", "`robot`"),
        ({"messages": SFT["messages"][:1]}, "sft", "messages", "add the assistant's answer"),
        ({"messages": SFT["messages"][::-1]}, "sft", "messages[0].role", "out of order"),
        (
            {"messages": [SFT["messages"][0], {"role": "tool", "content": "1"}]},
            "sft",
            "messages[1].role",
            "after `user`",
        ),
        (
            {"messages": [SFT["messages"][0], {"role": "assistant", "content": ""}]},
            "sft",
            "messages[1].content",
            "empty",
        ),
        ({"messages": [SFT["messages"][0], {"role": "assistant"}]}, "sft", "messages[1].content", "missing"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "sft", "messages[0].content", "must be text"),
        ({"text": 3}, "sft", "text", "must be text and is a number"),
        ({"text": "a\0b"}, "sft", "text", "NUL"),
        ({"prompt": "a", "completion": " \n"}, "sft", "completion", "empty"),
        ({"prompt": "a", "completion": SFT["messages"][1:]}, "sft", "prompt", "both"),
        ({"input_ids": [1, "2"]}, "sft", "input_ids", "whole numbers"),
        ({"input_ids": [1, True]}, "sft", "input_ids", "whole numbers"),
        ({"input_ids": [1, -2]}, "sft", "input_ids", "negative"),
        ({"input_ids": [1, 10**400]}, "sft", "input_ids", "no tokenizer"),
        ({"input_ids": [1, 2], "labels": [1, 2**31]}, "sft", "labels", "above"),
        ({"input_ids": [1, 2], "labels": [1]}, "sft", "labels", "2 whole numbers"),
        ({"input_ids": [1, 2], "labels": [-100, -100]}, "sft", "labels", "nothing of this row"),
        ({**DPO, "chosen": ""}, "dpo", "chosen", "empty"),
        ({**DPO, "rejected": " "}, "dpo", "rejected", "empty"),
        ({**DPO, "rejected": "Hello! "}, "dpo", "rejected", "identical"),
        ({**DPO, "chosen": {"a": 1}}, "dpo", "chosen", "is an object"),
        ({**DPO, "prompt": SFT["messages"]}, "dpo", "prompt", "both"),
    ],
)
def test_an_unfit_row_is_named_with_its_column_and_its_cure(tmp_path, row, method, column, words):
    good = {"sft": {key: SFT.get(key, "x") for key in row}, "dpo": DPO}[method]
    if "input_ids" in row:
        good = {"input_ids": [1]}
    if "completion" in row:
        good = {"prompt": "a", "completion": "b"}
    found = check(tmp_path, lines(good, good, row))
    row_number, where, message = first_error(found, method)
    assert (row_number, where) == (3, column)
    assert words in message
    assert found.methods[method].bad_rows == 1
    assert not found.methods[method].ok


def test_a_row_of_another_form_than_the_first_is_an_error(tmp_path):
    assert first_error(check(tmp_path, lines(DPO, {"prompt": "a", "chosen": "b"})), "dpo") == (
        2,
        "rejected",
        "`rejected` is missing",
    )


def test_a_file_that_serves_no_method_says_which_columns_it_has_and_needs(tmp_path):
    found = check(tmp_path, lines({"question": "a"}, {"question": "b"}))
    assert found.form is None
    assert "`question`" in first_error(found, "sft")[2]
    assert "`prompt` + `chosen` + `rejected`" in first_error(found, "dpo")[2]
    assert found.methods["dpo"].bad_rows == 2


def test_only_the_first_ten_errors_are_kept_and_all_are_counted(tmp_path):
    found = check(tmp_path, lines(SFT, *[{"messages": []}] * 25))
    assert len(found.methods["sft"].errors) == 10
    assert found.methods["sft"].bad_rows == 25


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"hello world\n", "neither a JSON object nor a CSV header"),
        (b"\x1f\x8b\x08\x00", "gzip data is damaged or cut off"),
        (b"\x28\xb5\x2f\xfd\x00", "zstd data is damaged or cut off"),
        (b"BZh91AY", "compress it with gzip or zstd"),
        (b"PK\x03\x04", "ZIP"),
        (b"\xff\xfe{\x00", "UTF-16"),
        (b"\x7fELF\x00\x00", "binary"),
        (b'{"text": "a"}\n{"text": \n', "row 2 is not valid JSON"),
        (b'{"text": "a"}\n\n{"text": "b" "c"}\n', "row 2 (line 3) is not valid JSON"),
        (b'{"text": NaN}\n', "has NaN, which is not JSON; write a number"),
        (b'{"text": "a\x01b"}\n', "raw control character"),
        (b'{"text": "a\x00b"}\n', "holds a NUL byte (0x00) at position 11 of the file; remove it"),
        (b'{"text": "a"}\n\x00\n', "row 2 holds a NUL byte (0x00) at position 14 of the file; remove it"),
        ('{"text": "a"}\n'.encode("utf-16-le"), "as UTF-16 text has; save the file as UTF-8"),
        (b'{"text": "\\ud800"}\n', "surrogate"),
        (b'{"text": "abc\xffd"}\n', "byte 0xff at position 13"),
        (b'{"a": 1}\n[1, 2]\n', "is a list"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "more than 100 levels deep"),
        (b'{"a": ' + b"[" * 700 + b'"\\ud83d\\ude00"' + b"]" * 700 + b"}\n", "more than 100 levels deep"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "thousands of digits"),
        (b'{\n "text": "a"\n}\n', "on one line"),
        (b"[]", "no rows"),
        (b'[{"text": "a"}', "cut off"),
        (b'[{"text": "a"},', "cut off"),
        (b'[{"text": "a"},]', "comma"),
        (b'[{"text": "a"} {"text": "b"}]', "comma"),
        (b'["a", "b"]', "must be an object"),
        (b"[1, 2]", "must be an object"),
        (b"[[1], [2]]", "must be an object"),
        (b'[{"text": "a"}] x', "after the closing"),
        (b'[{"text": "a"}]\n[{"text": "b"}]', "after the closing"),
        (b'[{"text": "a" "b"}]', "row 1 is not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_what_to_do(tmp_path, content, words):
    error = refusal(tmp_path, content)
    assert words in error.message
    assert error.fields[0].row is not None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"prompt,chosen,rejected\n", "no rows"),
        (b"prompt,chosen,rejected\na,b\n", "row 1 (line 2) has 2 fields and the header has 3"),
        (b"prompt,chosen,rejected\na,b,c\nd,e,f,g\n", "quote texts"),
        (b'text\n"abc\n', "never closed"),
        (b'text,b\n"abc"d,x\n', "not valid CSV"),
        (b"text,text\na,b\n", "twice"),
        (b"prompt;completion\na;b\n", "commas"),
        (b"text\nabc\xff\n", "position 8"),
    ],
)
def test_a_csv_file_that_cannot_be_read_is_refused(tmp_path, content, words):
    assert words in refusal(tmp_path, content, "data.csv").message


def test_csv_with_quotes_commas_newlines_and_bom_is_read(tmp_path):
    content = b'\xef\xbb\xbfprompt,completion\r\n"a, ""b""\nc",d\r\n\r\n5" pipe,x\r\n'
    found = check(tmp_path, content, "data.csv")
    assert (found.container, found.rows, found.form) == ("csv", 2, "prompt_completion")
    assert found.methods["sft"].ok


def test_bom_crlf_blank_lines_and_double_keys_are_tolerated(tmp_path):
    found = check(tmp_path, b'\xef\xbb\xbf{"text": "x", "text": "a"}\r\n\r\n{"text": "b"}')
    assert (found.rows, found.methods["sft"].ok) == (2, True)


def test_the_line_of_a_row_is_given_where_blank_lines_move_it(tmp_path):
    found = check(tmp_path, b'{"text": "a"}\n\n\n{"text": ""}\n')
    assert (found.methods["sft"].errors[0].row, found.methods["sft"].errors[0].line) == (2, 4)


@pytest.mark.parametrize("start", [b'{"text": "', b'[{"text": "', b'text,b\n"', b'[{"text": "a"}' + b" " * 10])
def test_a_line_beyond_the_limit_ends_the_check_while_it_streams_in(start):
    checker = Checker("data.csv" if start.startswith(b"text") else "data.jsonl", max_line_bytes=1 << 20)
    checker.feed(start)
    filler = (b" " if start.endswith(b" ") else b"a") * (1 << 20)

    def send() -> None:
        for _ in range(8):
            checker.feed(filler)

    with pytest.raises(TooLarge, match="longer than"):
        send()


def test_a_row_of_millions_of_values_is_refused_before_it_is_parsed(tmp_path):
    content = b'{"text": [' + b"[]," * 1_500_000 + b"[]]}\n"
    with pytest.raises(InvalidDataset, match="more than 2,000,000 values"):
        check(tmp_path, content, max_line_bytes=1 << 25)


def test_column_names_cannot_smuggle_control_characters_into_messages(tmp_path):
    found = check(tmp_path, lines({"a\0\x1b[31m": 1}))
    assert found.columns == ["a\\x00\\x1b[31m"]
    found.model_dump_json().encode()


def parquet(tmp_path: Path, rows: list[dict[str, object]], **options: object) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet", **options)
    return tmp_path / "data.parquet"


def test_parquet_is_checked_like_the_others(tmp_path):
    found = check_file(parquet(tmp_path, [DPO, {**DPO, "rejected": None}]))
    assert (found.container, found.rows, found.form) == ("parquet", 2, "preference")
    assert first_error(found, "dpo")[:2] == (2, "rejected")


def test_a_number_that_is_none_is_named_with_row_and_cure(tmp_path):
    rows = [{"prompt": "a", "completion": "x", "label": value} for value in (1.0, float("nan"))]
    error = check_file(parquet(tmp_path, rows)).methods["kto"].errors[1]
    assert (error.row, error.column) == (2, "label")
    assert "must be true (wanted) or false (unwanted) and is NaN" in error.message


def test_parquet_messages_with_null_keys_are_read(tmp_path):
    rows = [SFT, {"messages": [{**message, "name": "x"} for message in SFT["messages"]]}]
    assert check_file(parquet(tmp_path, rows)).methods["sft"].ok


def test_a_damaged_parquet_file_is_refused(tmp_path):
    path = parquet(tmp_path, [DPO])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidDataset, match="cannot be read"):
        check_file(path)


def test_a_parquet_bomb_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    rows = pyarrow.array([0] * 1000, pyarrow.int32())
    texts = pyarrow.DictionaryArray.from_arrays(rows, pyarrow.array(["a" * (8 << 20)]))
    path = tmp_path / "bomb.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    # A batch of its rows takes 1 GiB, which the child may not have; how long it takes to find that out is no matter.
    monkeypatch.setattr(isolated, "CHILD_MEMORY_BYTES", 768 << 20)
    monkeypatch.setattr(isolated, "LEAST_TIME_S", 3600.0)
    with pytest.raises(TooLarge, match="row groups"):
        check_file(path)
    reasonable = parquet(tmp_path, [DPO] * 1000)
    assert check_file(reasonable).rows == 1000


def test_the_check_of_a_parquet_file_gets_no_secrets_from_the_environment(tmp_path, monkeypatch):
    probe = tmp_path / "probe"
    probe.write_text(f'#!/bin/sh\nenv > {tmp_path}/env\nexec {sys.executable} "$@"\n')
    probe.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(probe))
    monkeypatch.setitem(os.environ, "HF_TOKEN", "hf_secret")
    check_file(parquet(tmp_path, [DPO]))
    assert "hf_secret" not in (tmp_path / "env").read_text()


def test_a_file_with_long_rows_is_read_once_it_is_whole_and_its_check_is_that_of_any_other(tmp_path):
    row = {"prompt": "a" * (3 << 20), "completion": "b"}
    contents = {
        "a.jsonl": lines(row, {"prompt": 1}, row),
        "a.json": json.dumps([row, {"prompt": 1}, row]).encode(),
        "a.csv": b"prompt,completion\n" + b"a" * (3 << 20) + b",b\nc\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        found = []
        for patient in (False, True):
            checker = Checker(name, patient=patient)
            for start in range(0, len(content), 1 << 18):
                checker.feed(content[start : start + (1 << 18)])
            assert checker.is_late() is not patient
            try:
                found.append(checker.finish(tmp_path / name))
            except InvalidDataset as error:
                found.append(error.message)
        assert found[0] == found[1]
    late = Checker("a.jsonl", 2_000_000)
    late.feed(contents["a.jsonl"][: 1 << 20] + b"a" * 100)
    late.feed(contents["a.jsonl"][1 << 20 :])
    with pytest.raises(TooLarge, match="row 1 is longer than 2,000,000 bytes"):
        late.finish(tmp_path / "a.jsonl")
