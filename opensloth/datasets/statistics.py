"""Figures of a whole file from one pass in bounded memory: lengths, duplicates, labels, what eval rows it repeats."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from opensloth.datasets.sketch import Lengths

CONTENT = ("messages", "prompt", "completion", "chosen", "rejected", "text", "input_ids", "labels", "label", "tools")
"""Columns that make two rows the same; an id beside them does not make them different."""
MAX_HASHES = 2**18
MAX_EXAMPLES = 5


class Hashes:
    """The contents of a stream of rows; beyond `MAX_HASHES` different ones, a random share of them.

    Adaptive sampling by hash (Wegman; Flajolet 1990): what is kept are the hashes divisible by `2**shift`.
    """

    def __init__(self, limit: int = MAX_HASHES) -> None:
        self._limit = limit
        self._shift = 0
        self._first: dict[int, int] = {}  # hash -> its first row
        self._repeats: Counter[int] = Counter()
        self.examples: list[tuple[int, int]] = []

    @property
    def exact(self) -> bool:
        """Whether every row was looked at."""
        return self._shift == 0

    @property
    def repeats(self) -> int:
        """Rows whose content came before."""
        return self._repeats.total() << self._shift

    def scaled(self, count: int) -> int:
        """A count of found rows, for all rows."""
        return count << self._shift

    def add(self, digest: int, row: int) -> None:
        """Take the next row, numbered from 1."""
        if digest & ((1 << self._shift) - 1):
            return
        if digest in self._first:
            self._repeats[digest] += 1
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append((self._first[digest], row))
            return
        self._first[digest] = row
        while len(self._first) > self._limit:
            self._shift += 1
            mask = (1 << self._shift) - 1
            self._first = {kept: row for kept, row in self._first.items() if not kept & mask}
            self._repeats = Counter({kept: n for kept, n in self._repeats.items() if not kept & mask})

    def find(self, digest: int) -> int | None:
        """The row with this content, if there is one among those that are kept."""
        return self._first.get(digest)


class Statistics:
    """Collects the figures; `add` each canonical row with its sizes in tokens, if they are known."""

    def __init__(self, max_length: int | None, evaluation: Hashes | None = None) -> None:
        self._max_length = max_length
        self._evaluation = evaluation
        self._hashes = Hashes()
        self._lengths = Lengths()
        self._trained = 0
        self._untrained_rows = 0
        self._over_length = 0
        self._over_examples: list[int] = []
        self._labels: Counter[str] = Counter()
        self._shared: dict[int, tuple[int, int]] = {}
        self._shared_count = 0
        self.rows = 0

    def add(self, row: Mapping[str, Any], sizes: tuple[int, int] | None) -> None:
        """Count a row; `sizes` are its tokens and how many of them are trained on."""
        self.rows += 1
        digest = content_hash(row)
        self._hashes.add(digest, self.rows)
        if "label" in row:
            self._labels[str(row["label"]).lower()] += 1
        if self._evaluation is not None and (twin := self._evaluation.find(digest)) is not None:
            self._shared_count += 1
            if len(self._shared) < MAX_EXAMPLES:
                self._shared[digest] = (self.rows, twin)
        if sizes is not None:
            self._add_sizes(*sizes)

    def _add_sizes(self, tokens: int, trained: int) -> None:
        self._lengths.add(tokens)
        self._trained += trained
        self._untrained_rows += trained == 0
        if self._max_length is not None and tokens > self._max_length:
            self._over_length += 1
            if len(self._over_examples) < MAX_EXAMPLES:
                self._over_examples.append(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As the API shows it."""
        found: dict[str, Any] = {
            "rows": self.rows,
            "duplicates": {
                "rows": self._hashes.repeats,
                "exact": self._hashes.exact,
                "examples": [{"row": row, "same_as": first} for first, row in self._hashes.examples],
            },
            "labels": dict(self._labels) or None,
            "tokens": None,
            "over_length": None,
            "eval_overlap": None,
        }
        if self._lengths.count:
            found["tokens"] = {
                **self._lengths.to_dict(),
                "trained": self._trained,
                "rows_without_trained_tokens": self._untrained_rows,
            }
            if self._max_length is not None:
                examples = self._over_examples
                found["over_length"] = {
                    "max_length": self._max_length,
                    "rows": self._over_length,
                    "examples": examples,
                }
        if self._evaluation is not None:
            found["eval_overlap"] = {
                "rows": self._evaluation.scaled(self._shared_count),
                "exact": self._evaluation.exact,
                "examples": [{"row": row, "eval_row": twin} for row, twin in self._shared.values()],
            }
        return found


def content_hash(row: Mapping[str, Any]) -> int:
    """64 bits of what is trained on in a canonical row."""
    content = {name: row[name] for name in CONTENT if row.get(name) is not None}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
