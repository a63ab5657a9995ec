"""Which container a file is, by its first bytes: JSONL, a JSON array, CSV or Parquet; the first three also packed."""

from __future__ import annotations

from typing import Literal

from opensloth.datasets.csv_rows import CsvParser
from opensloth.datasets.forms import known_columns
from opensloth.datasets.json_array import JsonArrayParser
from opensloth.datasets.jsonl import JsonlParser
from opensloth.datasets.records import Parser
from opensloth.errors import FieldError, InvalidDataset

Container = Literal["jsonl", "json", "csv", "parquet"]

UTF8_BOM = b"\xef\xbb\xbf"
ENOUGH = 4096
"""Bytes from which the container is known."""

FOREIGN = (
    (b"\xfd7zXZ", "is compressed with xz; compress it with gzip or zstd"),
    (b"BZh", "is compressed with bzip2; compress it with gzip or zstd"),
    (b"PK\x03\x04", "is a ZIP archive or an Excel workbook; save the rows as JSONL or CSV"),
    (b"\xff\xfe", "is UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16 text; save it as UTF-8"),
    (b"Obj\x01", "is an Avro file; save the rows as Parquet or JSONL"),
    (b"ARROW1", "is an Arrow file; save the rows as Parquet or JSONL"),
)


def sniff(head: bytes, filename: str) -> Container:
    """The container of a file that starts with `head` (up to `ENOUGH` bytes). Raises InvalidDataset."""
    if head.startswith(b"PAR1"):
        return "parquet"
    for magic, what in FOREIGN:
        if head.startswith(magic):
            raise not_a_dataset(f"the file {what}")
    text = head.removeprefix(UTF8_BOM).lstrip()
    if not text:
        raise not_a_dataset("the file is empty; write one row per line")
    if text.startswith(b"{"):
        return "jsonl"
    if text.startswith(b"["):
        return "json"
    if b"\0" in text:
        raise not_a_dataset("the file is binary; save the rows as JSONL, CSV or Parquet")
    if filename.lower().endswith(".csv") or _has_header(text):
        return "csv"
    raise not_a_dataset(
        "row 1 is neither a JSON object nor a CSV header; write one JSON object a line, a JSON array, CSV or Parquet"
    )


def text_parser(container: Container, max_line_bytes: int) -> Parser:
    """The parser of a text container."""
    parsers: dict[Container, type[JsonlParser] | type[JsonArrayParser] | type[CsvParser]] = {
        "jsonl": JsonlParser,
        "json": JsonArrayParser,
        "csv": CsvParser,
    }
    return parsers[container](max_line_bytes)


def not_a_dataset(message: str) -> InvalidDataset:
    """The error for a file of which no row can be read."""
    return InvalidDataset(message, fields=[FieldError("file", message, "unreadable", 1)])


def _has_header(text: bytes) -> bool:
    first = text.split(b"\n", 1)[0].decode("utf-8", "replace")
    return any(name.strip().strip('"') in known_columns() for name in first.split(","))
