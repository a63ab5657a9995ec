"""Rows of a dataset file on disk, one at a time, whatever its container; the trainer reads through this too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from opensloth.datasets.compression import open_plain, plain_name
from opensloth.datasets.containers import ENOUGH, UTF8_BOM, Container, sniff, text_parser
from opensloth.datasets.records import Record, Unreadable, damaged

MAX_LINE_BYTES = 32 * 2**20
CHUNK_BYTES = 2**20
PARQUET_BATCH_ROWS = 128


def iter_rows(
    path: Path | str, container: Container | None = None, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[dict[str, Any]]:
    """Yield each row of `path` as a dict, in bounded memory; the container is found by its content if not given.

    Raises InvalidDataset for a row that cannot be read and TooLarge for one beyond `max_line_bytes`.
    """
    for record in iter_records(path, container, max_line_bytes):
        if isinstance(record, Unreadable):
            raise damaged(record.row, record.message)
        yield record.values


def iter_records(
    path: Path | str,
    container: Container | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    columns: Sequence[str] | None = None,
) -> Iterator[Record | Unreadable]:
    """As `iter_rows`, with row and line numbers, and with rows that cannot be read as Unreadable.

    `columns` limits what is read of a Parquet file to those that it has of them.
    """
    path = Path(path)
    if container is None:
        with open_plain(path) as file:
            container = sniff(file.read(ENOUGH), plain_name(path.name))
    if container == "parquet":
        yield from _parquet_records(path, columns)
        return
    with open_plain(path) as file:
        yield from _text_records(file, container, max_line_bytes)


def _text_records(file: BinaryIO, container: Container, max_line_bytes: int) -> Iterator[Record | Unreadable]:
    parser = text_parser(container, max_line_bytes)
    chunk = file.read(CHUNK_BYTES).removeprefix(UTF8_BOM)
    while chunk:
        yield from parser.feed(chunk)
        chunk = file.read(CHUNK_BYTES)
    yield from parser.finish()


def _parquet_records(path: Path, columns: Sequence[str] | None) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as parquet:
            names = parquet.schema_arrow.names
            wanted = None if columns is None else [name for name in names if name in columns]
            row = 0
            for batch in parquet.iter_batches(PARQUET_BATCH_ROWS, columns=wanted, use_threads=False):
                for values in batch.to_pylist():
                    row += 1
                    yield Record(row, None, values)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise damaged(1, f"the Parquet file cannot be read: {reason}; write it again") from None
