"""Rows of a JSON array, found while its bytes arrive: `[{...}, {...}]`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from opensloth.datasets.records import BadRow, Record, Unreadable, damaged, parse_object, too_long

REST_OF_STRING = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)
# Whole strings are skipped in the same call; a quote that it stops at opens a string whose end has not arrived.
TO_BRACKET = re.compile(rb'(?:[^"\\{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
BRACKETS = (b"{", b"}", b"[", b"]")
SPACE = re.compile(rb"[ \t\r\n]*+\Z")
COMMA = re.compile(rb"[ \t\r\n]*+,[ \t\r\n]*+\Z")
NOT_AN_OBJECT = "every element of the array must be an object, with one comma between two of them and none at the end"
AFTER_THE_END = "something stands after the closing `]`; write one array, or JSONL"


class JsonArrayParser:
    """Finds where each object ends by counting brackets outside strings; holds at most one object."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._buffer = b""
        self._offset = 0  # of the buffer's first byte in the file
        self._line = 1
        self._counted = 0  # newlines before this place in the buffer are in `_line`
        self._scanned = 0
        self._depth = 0
        self._in_string = False
        self._row = 0
        self._closed = False

    @property
    def held(self) -> int:
        """Bytes of the row that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Record | Unreadable]:
        """The rows that `data` completes. Raises TooLarge for a row beyond the limit, InvalidDataset for damage."""
        self._buffer += data
        start = 0  # of the present row, or of what stands between rows
        while (position := self._next_bracket()) is not None:
            bracket = self._buffer[position : position + 1]
            if self._closed:
                raise damaged(self._row + 1, AFTER_THE_END)
            if bracket in b"[{":
                if self._depth < 2:
                    self._open(bracket, self._buffer[start:position])
                    start = position + (self._depth == 0)
                self._depth += 1
                continue
            self._depth -= 1
            if self._depth == 1:
                yield from self._record(start, position + 1)
                start = position + 1
            elif self._depth == 0:
                self._close(bracket, self._buffer[start:position])
                start = position + 1
        self._drop(start)

    def finish(self) -> Iterator[Record | Unreadable]:
        """Nothing more. Raises InvalidDataset if the array is not closed or something stands after it."""
        if not self._closed:
            raise damaged(self._row + 1, "the file ends before the closing `]` of its JSON array; it seems cut off")
        if self._buffer and not SPACE.match(self._buffer):
            raise damaged(self._row + 1, AFTER_THE_END)
        return iter(())

    def _next_bracket(self) -> int | None:
        while self._scanned < len(self._buffer):
            if self._in_string:
                match = REST_OF_STRING.match(self._buffer, self._scanned)
                self._scanned = match.end() if match else self._scanned
                if self._buffer[self._scanned : self._scanned + 1] != b'"':
                    return None
                self._in_string = False
                self._scanned += 1
                continue
            skipped = TO_BRACKET.match(self._buffer, self._scanned)
            position = skipped.end() if skipped else self._scanned
            self._scanned = min(position + 1, len(self._buffer))
            stop = self._buffer[position : position + 1]
            if stop in BRACKETS:
                return position
            self._in_string = stop == b'"'
        return None

    def _open(self, bracket: bytes, between: bytes) -> None:
        if self._depth == 0:
            return
        separator = COMMA if self._row else SPACE
        if bracket == b"[" or not separator.match(between):
            raise damaged(self._row + 1, NOT_AN_OBJECT)

    def _close(self, bracket: bytes, between: bytes) -> None:
        if bracket != b"]" or not SPACE.match(between):
            raise damaged(self._row + 1, NOT_AN_OBJECT)
        self._closed = True

    def _record(self, start: int, end: int) -> Iterator[Record | Unreadable]:
        self._row += 1
        self._count_lines(start)
        line = self._line
        if end - start > self._max_line_bytes:
            raise too_long(self._row, self._max_line_bytes)
        try:
            yield Record(self._row, line, parse_object(self._buffer[start:end], self._offset + start))
        except BadRow as error:
            yield Unreadable(self._row, line, str(error))

    def _drop(self, start: int) -> None:
        self._count_lines(start)
        self._counted = 0
        self._offset += start
        self._buffer = self._buffer[start:]
        self._scanned -= start
        if len(self._buffer) > self._max_line_bytes:
            raise too_long(self._row + 1, self._max_line_bytes)

    def _count_lines(self, upto: int) -> None:
        self._line += self._buffer.count(b"\n", self._counted, upto)
        self._counted = upto
