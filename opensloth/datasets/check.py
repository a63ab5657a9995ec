"""The check of a dataset file while its bytes arrive: every row, for every training type, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from opensloth.datasets.compression import compression_of
from opensloth.datasets.containers import ENOUGH, UTF8_BOM, Container, not_a_dataset, sniff, text_parser
from opensloth.datasets.forms import detect
from opensloth.datasets.isolated import check_isolated
from opensloth.datasets.readers import CHUNK_BYTES, MAX_LINE_BYTES
from opensloth.datasets.records import Parser, Record, Unreadable
from opensloth.datasets.report import MAX_ERRORS, FileCheck, Report
from opensloth.errors import FieldError, InvalidDataset

LONG_ROW = 2**20
"""Bytes of a row beyond which the rows are read once the whole file is there: hundreds of files may come at once."""


class Checker:
    """Push bytes with `feed`, then ask `finish` for the result.

    Both raise InvalidDataset for a file that cannot be read at all and TooLarge for a row beyond `max_line_bytes`.
    A file whose rows can be read passes, whatever they hold: `FileCheck.methods` says what it can be used for. A few
    megabytes are held at most, or a whole row by one that is `patient`.
    """

    def __init__(self, filename: str, max_line_bytes: int = MAX_LINE_BYTES, *, patient: bool = False) -> None:
        self._filename = filename
        self._patient = patient
        self._late = False
        self._max_line_bytes = max_line_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._container: Container | None = None
        self._compressed = False
        self._parser: Parser | None = None
        self._report = Report()
        self._form: str | None = None
        self._unreadable: list[Unreadable] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        self._pending.append(data)
        self._pending_bytes += len(data)
        # Bigger pieces than a socket gives: a long row would be copied once for each piece.
        if self._pending_bytes >= CHUNK_BYTES or (self._container is None and self._pending_bytes >= ENOUGH):
            self._drain()

    def is_late(self) -> bool:
        """Whether `finish` has all rows still to read, as the file is packed or has long ones, once all bytes were fed.

        Raises as `feed` does.
        """
        self._drain()
        return self._late or self._compressed or self._container == "parquet"

    def finish(self, path: Path) -> FileCheck:
        """The result, once all bytes were fed; `path` is the whole file, which one that is late needs."""
        if not self.is_late():
            return self.finish_text()
        if not self._late:
            return check_isolated(path, self._filename, self._max_line_bytes)
        with path.open("rb") as file:
            return check_stream(file, self._filename, self._max_line_bytes)

    def finish_text(self) -> FileCheck:
        """The result of rows that were all fed as text."""
        self._drain()
        if self._container == "parquet" or self._compressed or self._container is None:
            raise not_a_dataset("the file is compressed twice; upload Parquet as it is, and other files packed once")
        if self._parser is not None:
            self._take(self._parser.finish())
        if self._unreadable:
            raise self._refusal()
        if not self._report.rows:
            raise not_a_dataset("the file has no rows; write at least one")
        return self._report.result(self._container, self._form)

    def _drain(self) -> None:
        data = b"".join(self._pending)
        self._pending, self._pending_bytes = [], 0
        if self._compressed or self._late:
            return
        if self._container is None:
            self._compressed = compression_of(data) is not None
            if self._compressed:
                return
            self._container = sniff(data[:ENOUGH], self._filename)
            if self._container != "parquet":
                self._parser = text_parser(self._container, self._max_line_bytes)
            data = data.removeprefix(UTF8_BOM)
        if self._parser is not None and len(self._unreadable) < MAX_ERRORS:
            self._take(self._parser.feed(data))
            if self._parser.held > LONG_ROW and not self._patient:
                self._late, self._parser, self._report = True, None, Report()

    def _take(self, records: Iterable[Record | Unreadable]) -> None:
        for record in records:
            if isinstance(record, Unreadable):
                self._unreadable.append(record)
                if len(self._unreadable) >= MAX_ERRORS:
                    raise self._refusal()
                continue
            if not self._report.rows:
                self._form = detect(record.values)
            self._report.add(record)

    def _refusal(self) -> InvalidDataset:
        fields = [
            FieldError("file", unreadable.message, "unreadable", unreadable.row) for unreadable in self._unreadable
        ]
        first = self._unreadable[0]
        line = f" (line {first.line})" if first.line not in (None, first.row) else ""
        return InvalidDataset(
            f"row {first.row}{line} {first.message}", hint="correct these rows and upload again", fields=fields
        )


def check_stream(file: BinaryIO, filename: str, max_line_bytes: int) -> FileCheck:
    """The check of text rows that are read from `file`."""
    checker = Checker(filename, max_line_bytes, patient=True)
    while chunk := file.read(CHUNK_BYTES):
        checker.feed(chunk)
    return checker.finish_text()
