"""Rows of a CSV file with a header, comma-separated, in batches that never end inside a quoted field."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from opensloth.datasets.messages import shown
from opensloth.datasets.records import BadRow, Record, Unreadable, damaged, too_long, utf8

# The csv module has one limit for the whole process; the limit that holds here is `max_line_bytes` a record.
csv.field_size_limit(2**31 - 1)

IN_QUOTES = re.compile(rb'(?:[^"]++|"")*+')
CLOSED_FIELDS = re.compile(rb'(?:[^",]*+,|[^",][^,]*+(?:,|\Z)|"(?:[^"]++|"")*+"[^,]*+(?:,|\Z))*+')
MAX_COLUMNS = 1000


class CsvParser:
    """Collects whole lines until no quote is open, then lets the csv module read them."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._tail = b""
        self._lines: list[bytes] = []
        self._held = 0  # bytes of the record that is not complete yet
        self._quoted = False
        self._offset = 0  # of the first held line
        self._line = 1  # of the first held line
        self._row = 0
        self._header: list[str] | None = None

    @property
    def held(self) -> int:
        """Bytes of the row that is not complete yet."""
        return self._held + len(self._tail)

    def feed(self, data: bytes) -> Iterator[Record | Unreadable]:
        """The rows that `data` completes. Raises TooLarge for a record beyond the limit, InvalidDataset for damage."""
        pieces = (self._tail + data).split(b"\n")
        self._tail = pieces.pop()
        complete = 0
        for piece in pieces:
            line = piece + b"\n"
            self._lines.append(line)
            self._held += len(line)
            self._quoted = ends_in_quotes(line, self._quoted)
            if self._held > self._max_line_bytes:
                raise too_long(self._row + 1, self._max_line_bytes)
            if not self._quoted:
                complete = len(self._lines)
                self._held = 0
        yield from self._read(complete)
        if self._held + len(self._tail) > self._max_line_bytes:
            raise too_long(self._row + 1, self._max_line_bytes)

    def finish(self) -> Iterator[Record | Unreadable]:
        """What the last newline is missing from. Raises InvalidDataset if a quote is never closed."""
        if self._tail:
            self._lines.append(self._tail)
            self._quoted = ends_in_quotes(self._tail, self._quoted)
            self._tail = b""
        if self._quoted:
            raise damaged(self._row + 1, 'a quoted text is never closed; end it with `"`')
        yield from self._read(len(self._lines))

    def _read(self, count: int) -> Iterator[Record | Unreadable]:
        batch, self._lines = self._lines[:count], self._lines[count:]
        start_line, self._line = self._line, self._line + len(batch)
        try:
            texts = self._decode(batch)
        except BadRow as error:
            raise damaged(self._row + 1, str(error)) from None
        reader = csv.reader(texts, strict=True)
        while True:
            line = start_line + reader.line_num
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise damaged(self._row + 1, f"line {line} is not valid CSV: {error}") from None
            if fields is None:
                return
            if not fields:
                continue
            if self._header is None:
                self._header = header(fields)
                continue
            self._row += 1
            yield self._record(fields, line)

    def _decode(self, batch: list[bytes]) -> list[str]:
        texts = []
        for line in batch:
            texts.append(utf8(line, self._offset))
            self._offset += len(line)
        return texts

    def _record(self, fields: list[str], line: int) -> Record | Unreadable:
        names = self._header or []
        if len(fields) == len(names):
            return Record(self._row, line, dict(zip(names, fields, strict=True)))
        many = len(fields) > len(names)
        cure = "quote texts that contain a comma or a newline" if many else "fill in what is missing"
        return Unreadable(self._row, line, f"has {len(fields)} fields and the header has {len(names)}; {cure}")


def ends_in_quotes(line: bytes, quoted: bool) -> bool:
    """Whether a quoted field is open after `line`, if one was (or was not) before it: the csv module's own rule."""
    if b'"' not in line:
        return quoted
    rest = line
    if quoted:
        inside = IN_QUOTES.match(line)
        end = inside.end() if inside else 0
        if end == len(line):
            return True
        comma = line.find(b",", end)
        if comma < 0:
            return False
        rest = line[comma + 1 :]
    closed = CLOSED_FIELDS.match(rest)
    return closed is None or closed.end() < len(rest)


def header(fields: list[str]) -> list[str]:
    """The column names. Raises InvalidDataset for names that cannot be told apart."""
    if len(fields) > MAX_COLUMNS:
        raise damaged(1, f"the header has {len(fields)} columns; at most {MAX_COLUMNS} are read")
    names = [field.strip() for field in fields]
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        raise damaged(1, "the columns are separated by `;` or tabs; save the file with commas")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise damaged(1, f"the header names the column `{shown(twice)}` twice; rename one of them")
    return names
