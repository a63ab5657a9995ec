"""How long the rows of a dataset can be in tokens, from the bytes of its longest line."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from opensloth.datasets.compression import compression_of
from opensloth.datasets.rows import FileRow
from opensloth.storage import Storage

READ_BYTES = 16 * 2**20
"""Files beyond it are not read for this; their rows are taken to be as long as the job lets them be."""
_LARGE_VOCABULARY = 16_000
_TEMPLATE_TOKENS = 64
_BYTES_A_TOKEN = 16
"""More than tokens have on average in any text, JSON's quotes and names included."""
_KEPT = 1024


@dataclass(frozen=True)
class RowLengths:
    """What is known of a dataset's rows; bytes of the whole file, and of the longest row if it was looked for."""

    total_bytes: int
    longest_bytes: int | None

    def at_most(self, limit: int, vocabulary: int) -> int:
        """Tokens of the longest row, not more than `limit`: a token of a large vocabulary has two bytes or more."""
        if self.longest_bytes is None:
            return limit
        size = self.longest_bytes if vocabulary < _LARGE_VOCABULARY else self.longest_bytes // 2
        return min(limit, size + _TEMPLATE_TOKENS)

    def at_least(self, limit: int) -> int:
        """Tokens that the longest row has for certain, not more than `limit`."""
        return 1 if self.longest_bytes is None else max(1, min(limit, self.longest_bytes // _BYTES_A_TOKEN))

    def fill(self, tokens: int) -> bool:
        """Whether all rows together have at least so many tokens for certain."""
        return self.total_bytes // _BYTES_A_TOKEN >= tokens


def longest_of(files: Sequence[RowLengths]) -> RowLengths:
    """What holds for the rows of several files; the first one is trained on."""
    known = [file.longest_bytes for file in files]
    longest = None if None in known else max(size for size in known if size is not None)
    return RowLengths(files[0].total_bytes, longest)


class RowLengthReader:
    """Reads small JSON-lines files once, by content."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._known: OrderedDict[str, int | None] = OrderedDict()

    def of(self, row: FileRow) -> RowLengths:
        """What is known of the rows of a file."""
        with self._lock:
            known, longest = row.sha256 in self._known, self._known.get(row.sha256)
        if not known:
            longest = self._longest(row)
            with self._lock:
                self._known[row.sha256] = longest
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        return RowLengths(row.bytes, longest)

    def _longest(self, row: FileRow) -> int | None:
        if row.container != "jsonl" or row.bytes > READ_BYTES:
            return None
        try:
            with self._storage.open(row.storage_key) as file:
                content = file.read(READ_BYTES + 1)
        except OSError:
            return None
        return None if compression_of(content[:4]) else max(map(len, content.split(b"\n")))
