"""Rows of a JSONL file: one JSON object a line, blank lines skipped."""

from __future__ import annotations

from collections.abc import Iterator

from opensloth.datasets.records import BadRow, Record, Unreadable, parse_object, too_long


class JsonlParser:
    """Splits at newlines; holds at most one line."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._tail = b""
        self._offset = 0
        self._row = 0
        self._line = 0

    @property
    def held(self) -> int:
        """Bytes of the row that is not complete yet."""
        return len(self._tail)

    def feed(self, data: bytes) -> Iterator[Record | Unreadable]:
        """The rows that `data` completes. Raises TooLarge for a line beyond the limit."""
        lines = (self._tail + data).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            yield from self._record(line)
            self._offset += len(line) + 1
        if len(self._tail) > self._max_line_bytes:
            raise too_long(self._row + 1, self._max_line_bytes)

    def finish(self) -> Iterator[Record | Unreadable]:
        """The last line, if no newline ends it."""
        if self._tail:
            yield from self._record(self._tail)
            self._tail = b""

    def _record(self, line: bytes) -> Iterator[Record | Unreadable]:
        self._line += 1
        if not line or line.isspace():
            return
        self._row += 1
        if len(line) > self._max_line_bytes:
            raise too_long(self._row, self._max_line_bytes)
        try:
            yield Record(self._row, self._line, parse_object(line, self._offset))
        except BadRow as error:
            hint = ""
            if self._row == 1 and line.strip() in (b"{", b"[", b"[{"):
                hint = "; an object must stand on one line (JSONL), or all rows in one JSON array"
            yield Unreadable(self._row, self._line, f"{error}{hint}")
