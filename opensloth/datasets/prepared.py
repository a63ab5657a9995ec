"""From tables, one after another, to a dataset that lies in a file: memory does not grow with the rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from opensloth.datasets.prepared_cache import PreparedCache, cache_key


@dataclass
class DataCounts:
    """What became of the rows of one split; `tokens` and `trained_tokens` count one epoch.

    `dropped` rows were longer than allowed (`dropped_overlength`) or had nothing to train on. `reused` tells that an
    earlier job had prepared the same.
    """

    split: str
    rows: int = 0
    kept: int = 0
    dropped: int = 0
    dropped_overlength: int = 0
    truncated: int = 0
    truncated_prompts: int = 0
    packed_rows: int | None = None
    tokens: int = 0
    trained_tokens: int = 0
    reused: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As the `data` record carries it."""
        return asdict(self)

    def sentence(self) -> str:
        """For people."""
        text = f"{self.split}: {self.kept} of {self.rows} rows, {self.tokens} tokens"
        if self.packed_rows is not None:
            text += f" in {self.packed_rows} packed rows"
        if self.dropped:
            text += f"; {self.dropped} dropped, {self.dropped_overlength} of them as too long"
        if self.truncated or self.truncated_prompts:
            text += f"; {self.truncated} rows and {self.truncated_prompts} prompts cut"
        return text + ("; prepared by an earlier job" if self.reused else "")

    def take(self, stored: Mapping[str, Any]) -> None:
        """Takes the numbers of an earlier preparation of the same rows."""
        for field in fields(self):
            if field.name in stored and field.name not in ("split", "reused"):
                setattr(self, field.name, stored[field.name])


@dataclass
class Prepared:
    """A dataset that a trainer reads as it is, and what became of the raw rows."""

    dataset: Dataset
    counts: DataCounts


def keep(
    rows: Iterable[Any],
    tokenizer: Any,
    counts: DataCounts,
    tables: Callable[[], Iterator[pa.Table]],
    options: Mapping[str, Any],
) -> Prepared:
    """The dataset of `tables`, which fill `counts` while they are made.

    Rows that come from a file with a cache are prepared once for all jobs with the same `options`, and read from
    there. Others are written to a temporary file that is gone with the process.
    """
    cache: PreparedCache | None = getattr(rows, "cache", None)
    fingerprint = getattr(rows, "fingerprint", None)
    if cache is None or fingerprint is None:
        handle, name = tempfile.mkstemp(prefix="opensloth-prepared-", suffix=".arrow")
        os.close(handle)
        try:
            write_tables(Path(name), tables())
            return Prepared(Dataset.from_file(name), counts)
        finally:
            os.unlink(name)  # it stays as long as it is mapped

    def make(path: Path) -> dict[str, Any]:
        write_tables(path, tables())
        return counts.to_dict()

    with cache.get(cache_key(fingerprint, tokenizer, dict(options)), make) as entry:
        counts.take(entry.meta)
        counts.reused = entry.reused
        return Prepared(Dataset.from_file(str(entry.data)), counts)


def write_tables(path: Path, tables: Iterator[pa.Table]) -> None:
    """Writes tables with the same columns as one Arrow stream file."""
    first = next(tables)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def integer_lists(columns: Mapping[str, Sequence[Sequence[int] | np.ndarray]]) -> pa.Table:
    """A table whose columns hold lists of 32-bit integers, made without a Python object per token."""
    return pa.table({name: lists_of([len(value) for value in values], values) for name, values in columns.items()})


def lists_of(lengths: Sequence[int], parts: Sequence[Sequence[int] | np.ndarray]) -> pa.Array:
    """Lists of these lengths out of all integers of `parts`, one part behind the other."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    flat = np.concatenate([np.asarray(part, np.int32) for part in parts]) if parts else np.zeros(0, np.int32)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))
