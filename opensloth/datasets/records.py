"""One row out of the bytes of a file: what is strict about JSON here, and how a row that cannot be read is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from opensloth.datasets.messages import kind
from opensloth.errors import FieldError, InvalidDataset, TooLarge

MAX_VALUES = 2_000_000
"""Values in one row: a short text of brackets would otherwise become gigabytes of objects."""
MAX_NESTING = 100
"""Levels of one row: what reads it later goes down level by level, and Python's stack has an end."""
LARGE_RECORD = 256 * 1024
"""Bytes above which a row's values are counted before it is parsed."""


@dataclass(slots=True)
class Record:
    """A row that could be read; `row` counts from 1, `line` is where it starts in a text file."""

    row: int
    line: int | None
    values: dict[str, Any]


@dataclass(slots=True)
class Unreadable:
    """A row that could not be read, and why."""

    row: int
    line: int | None
    message: str


class Parser(Protocol):
    """Bytes in, rows out: `feed` as they arrive, `finish` once at the end.

    Both raise InvalidDataset for damage after which no further row can be found.
    """

    @property
    def held(self) -> int:
        """Bytes of the row that is not complete yet."""

    def feed(self, data: bytes) -> Iterator[Record | Unreadable]:
        """The rows that `data` completes."""

    def finish(self) -> Iterator[Record | Unreadable]:
        """The last row, if the file does not end with a newline."""


class BadRow(ValueError):
    """The bytes of this row are not a JSON object."""


def _no_constant(name: str) -> NoReturn:
    raise BadRow(f"has {name}, which is not JSON; write a number, or null where there is none")


_TOO_DEEP = f"is nested more than {MAX_NESTING} levels deep; write flat rows"
_decoder = json.JSONDecoder(parse_constant=_no_constant)


def parse_object(data: bytes, offset: int) -> dict[str, Any]:
    """The JSON object in `data`, which starts at byte `offset` of its file. Raises BadRow with what to do."""
    if len(data) > LARGE_RECORD and data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise BadRow(f"has more than {MAX_VALUES:,} values; split it into several rows")
    try:
        value = _decoder.decode(utf8(data, offset))
    except json.JSONDecodeError as error:
        if b"\0" in data:
            raise BadRow(_about_nul(data, offset)) from None
        control = error.msg.startswith("Invalid control character")
        what = "a raw control character (write \\n, \\t, \\u0001)" if control else error.msg
        raise BadRow(f"is not valid JSON: {what} at character {error.pos + 1}") from None
    except RecursionError:
        raise BadRow(_TOO_DEEP) from None
    except BadRow:
        raise
    except ValueError:
        raise BadRow("has a number with thousands of digits; write it as text") from None
    if not isinstance(value, dict):
        raise BadRow(f'is {kind(value)}; each row must be an object such as {{"prompt": ..., "completion": ...}}')
    if data.count(b"[") + data.count(b"{") > MAX_NESTING and _is_deep(value):
        raise BadRow(_TOO_DEEP)
    if _may_hold_surrogate(data) and _has_surrogate(value):
        raise BadRow("has half of a surrogate pair (\\ud800 to \\udfff alone), which is no character; remove it")
    return value


def _about_nul(data: bytes, offset: int) -> str:
    """What to do about the NUL bytes in `data`: UTF-16 has one at about every other place."""
    if data.count(b"\0") * 3 > len(data) > 3:
        return "has a NUL byte at every other place, as UTF-16 text has; save the file as UTF-8"
    return f"holds a NUL byte (0x00) at position {offset + data.index(0)} of the file; remove it"


def utf8(data: bytes, offset: int) -> str:
    """`data` as text. Raises BadRow with the position in the file of the first byte that is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        position = offset + error.start
        raise BadRow(
            f"is not UTF-8: byte 0x{data[error.start]:02x} at position {position} of the file; save the file as UTF-8"
        ) from None


def too_long(row: int, limit: int) -> TooLarge:
    """The error for a row beyond `limit` bytes."""
    message = f"row {row} is longer than {limit:,} bytes; write one row per line, and split longer texts"
    return TooLarge(message, code="row_too_large", fields=[FieldError("file", message, "row_too_large", row)])


def damaged(row: int, message: str) -> InvalidDataset:
    """The error for damage after which no row can be found."""
    return InvalidDataset(f"row {row}: {message}", fields=[FieldError("file", message, "unreadable", row)])


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_NESTING):
        inner = [list(item.values()) if isinstance(item, dict) else item for item in level]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
    return bool(level)


def _may_hold_surrogate(data: bytes) -> bool:
    return b"\\ud" in data or b"\\uD" in data


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return True
        return False
    if isinstance(value, dict):
        return any(_has_surrogate(key) or _has_surrogate(item) for key, item in value.items())
    return isinstance(value, list) and any(map(_has_surrogate, value))
