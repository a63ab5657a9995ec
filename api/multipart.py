"""The form of a file upload, taken apart while it arrives: fields in memory, the file handed on in pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from api.errors import Malformed, WrongMediaType
from opensloth.errors import FieldError, InvalidInput

MAX_FIELD_BYTES = 64 * 1024
MAX_PARTS = 16


class Sink(Protocol):
    """What takes the bytes of the file."""

    def write(self, data: bytes) -> None:
        """Take the next ones."""


SinkT = TypeVar("SinkT", bound=Sink)


class FileForm(Generic[SinkT]):
    """Feed it the body of a `multipart/form-data` request; afterwards it has the `fields` and the `spool` of the file.

    Fields and file, whose field is `name`, may come in any order. `open_spool` is called with the file's name where
    its content begins.
    """

    def __init__(self, content_type: str, open_spool: Callable[[str], SinkT], name: str = "file") -> None:
        media_type, options = parse_options_header(content_type)
        if media_type != b"multipart/form-data":
            raise WrongMediaType("send the file as multipart/form-data", hint="curl -F purpose=fine-tune -F file=@FILE")
        if not options.get(b"boundary"):
            raise Malformed("the content type has no boundary")
        self.fields: dict[str, str] = {}
        self.spool: SinkT | None = None
        self._file_name = name
        self._open_spool = open_spool
        self._parts = 0
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._in_file = False
        self._value = b""
        self._ended = False
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_field,
                "on_header_value": self._header_piece,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_part_end": self._part_ends,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises Malformed for what is no form, and what the file's spool raises."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise Malformed(f"the body is not a multipart form: {error}") from None

    def finish(self) -> SinkT:
        """The spool of the file, once all bytes are in; raises InvalidInput if a part is missing."""
        if not self._ended:
            raise Malformed("the form is cut off before its closing boundary")
        if self.spool is None:
            raise InvalidInput("the form has no file", fields=[FieldError(self._file_name, "is missing", "missing")])
        return self.spool

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Malformed(f"the form has more than {MAX_PARTS} parts")
        self._disposition = self._value = self._header_name = self._header_value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_piece(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_ends(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename")
        self._in_file = self._name == self._file_name
        if filename is not None and not self._in_file:
            raise InvalidInput(
                "the form is not valid",
                fields=[FieldError(self._shown_name(), f"send the file as `{self._file_name}`")],
            )
        if not self._in_file:
            return
        if self.spool is not None:
            raise InvalidInput(
                "the form has two files", fields=[FieldError(self._file_name, "send one file a request")]
            )
        # Browsers and httpx write a quote in a name as %22 (WHATWG, multipart/form-data encoding).
        self.spool = self._open_spool((filename or b"").decode("utf-8", "replace").replace("%22", '"'))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file and self.spool is not None:
            self.spool.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise Malformed(f"the field {self._shown_name()} is longer than {MAX_FIELD_BYTES} bytes")

    def _part_ends(self) -> None:
        if not self._in_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True

    def _shown_name(self) -> str:
        return self._name[:64] if self._name.isprintable() else "a field"
