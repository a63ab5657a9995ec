"""Compressed files are read as what is inside, and a bomb is refused before it has unpacked."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pytest

from opensloth.datasets.readers import iter_rows
from opensloth.errors import InvalidDataset, TooLarge
from tests.support.datasets import check_file

ROWS = [{"text": f"row {n}"} for n in range(100)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = b"text\n" + b"".join(f"row {n}\n".encode() for n in range(100))


def zstd(data: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(data, asbytes=True)


@pytest.mark.parametrize(
    ("name", "content", "container"),
    [
        ("rows.jsonl.gz", gzip.compress(LINES), "jsonl"),
        ("rows.jsonl.gz", gzip.compress(LINES[: len(LINES) // 2]) + gzip.compress(LINES[len(LINES) // 2 :]), "jsonl"),
        ("rows.csv.gz", gzip.compress(b"\xef\xbb\xbf" + CSV), "csv"),
        ("rows.json.zst", zstd(json.dumps(ROWS).encode()), "json"),
        ("rows.jsonl.zst", zstd(LINES), "jsonl"),
    ],
)
def test_a_compressed_file_is_checked_and_read_like_any_other(tmp_path, name, content, container):
    path = tmp_path / name
    path.write_bytes(content)
    found = check_file(path)
    assert (found.container, found.rows, found.methods["sft"].ok) == (container, 100, True)
    assert list(iter_rows(path, found.container)) == ROWS


def test_a_bad_row_in_a_compressed_file_is_named(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(LINES + b'{"text": \n'))
    with pytest.raises(InvalidDataset, match="row 101 is not valid JSON") as caught:
        check_file(path)
    assert caught.value.fields[0].row == 101


def test_a_gzip_bomb_is_refused_in_bounded_memory(tmp_path):
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        line = b'{"text": "' + b"a" * (1 << 20) + b'"}\n'
        for _ in range(100):
            file.write(line)
    with pytest.raises(TooLarge, match="times its size"):
        check_file(path)


def test_parquet_within_gzip_is_refused_with_the_cure(tmp_path):
    path = tmp_path / "rows.parquet.gz"
    path.write_bytes(gzip.compress(b"PAR1" + bytes(100)))
    with pytest.raises(InvalidDataset, match="upload Parquet as it is"):
        check_file(path)


def test_a_cut_off_file_is_refused(tmp_path: Path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(LINES)[:-20])
    with pytest.raises(InvalidDataset, match="damaged or cut off"):
        check_file(path)
