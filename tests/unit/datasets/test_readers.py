import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opensloth.datasets.check import Checker
from opensloth.datasets.containers import text_parser
from opensloth.datasets.csv_rows import ends_in_quotes
from opensloth.datasets.readers import iter_rows
from opensloth.datasets.records import Record
from opensloth.errors import InvalidDataset, TooLarge

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
values = st.recursive(text | st.integers() | st.none() | st.booleans(), lambda inner: st.lists(inner, max_size=3))
rows = st.lists(st.dictionaries(text, values, max_size=4), min_size=1, max_size=8)
cuts = st.integers(1, 7)


def read(container: str, content: bytes, size: int) -> list[dict]:
    parser = text_parser(container, 1 << 20)
    records = []
    for start in range(0, len(content), size):
        records += list(parser.feed(content[start : start + size]))
    records += list(parser.finish())
    assert all(isinstance(record, Record) for record in records)
    return [record.values for record in records]


@settings(max_examples=150, deadline=None)
@given(rows, cuts, st.booleans(), st.sampled_from([None, 1]))
def test_json_rows_come_back_however_their_bytes_are_cut(expected, size, ascii_only, indent):
    lines = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in expected)
    assert read("jsonl", lines.encode(), size) == expected
    assert read("json", json.dumps(expected, ensure_ascii=ascii_only, indent=indent).encode(), size) == expected


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=6), cuts, st.sampled_from(["\n", "\r\n"]))
def test_csv_rows_come_back_however_their_bytes_are_cut(expected, size, newline):
    clean = [tuple(value.replace("\r", "") for value in row) for row in expected]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=newline)
    writer.writerow(["a", "b"])
    writer.writerows(clean)
    assert read("csv", out.getvalue().encode(), size) == [{"a": a, "b": b} for a, b in clean]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text('a,"\n', max_size=12), min_size=1, max_size=4))
def test_the_quote_rule_agrees_with_the_csv_module(pieces):
    content = "\n".join(pieces) + "\n"
    quoted, open_after = False, []
    for line in content.encode().splitlines(keepends=True):
        quoted = ends_in_quotes(line, quoted)
        open_after.append(quoted)
    fed = 0

    def lines():
        nonlocal fed
        for line in content.splitlines(keepends=True):
            fed += 1
            yield line

    try:
        for _ in csv.reader(lines(), strict=True):
            assert not open_after[fed - 1]
            assert all(open_after[start] for start in range(fed - 1) if start >= previous(fed, open_after))
    except csv.Error:
        return


def previous(fed: int, open_after: list[bool]) -> int:
    before = [index for index in range(fed - 1) if not open_after[index]]
    return before[-1] + 1 if before else 0


@example(content=b"\x1f\x8b", start=b"", size=1)
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"{", b"[", b'[{"text": "', b"text,b\n", b'{"text": ']), cuts)
def test_any_bytes_give_a_result_or_a_refusal_and_nothing_else(tmp_path_factory, content, start, size):
    message = refusal_of(start + content, size, tmp_path_factory.getbasetemp() / "any.bytes")
    assert message is None or message.isprintable()


def refusal_of(content: bytes, size: int, path: Path) -> str | None:
    checker = Checker("any.csv", 100)
    try:
        for at in range(0, len(content), size):
            checker.feed(content[at : at + size])
        path.write_bytes(content)  # what is packed or Parquet is read from there
        checker.finish(path)
    except (InvalidDataset, TooLarge) as error:
        return error.message
    return None


def test_rows_are_read_from_disk_in_every_container(tmp_path):
    import pyarrow
    import pyarrow.parquet

    expected = [{"prompt": f"p{n}", "completion": f"c{n}"} for n in range(300)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, expected)))
    (tmp_path / "a.json").write_text(json.dumps(expected, indent=2))
    (tmp_path / "a.csv").write_text("prompt,completion\n" + "".join(f"p{n},c{n}\n" for n in range(300)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(expected), tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert list(iter_rows(path)) == expected


def test_a_truncated_row_is_named_when_it_is_reached(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b')
    found = iter_rows(path)
    assert next(found) == {"text": "a"}
    with pytest.raises(InvalidDataset, match="row 2"):
        next(found)
