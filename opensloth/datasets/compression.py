"""Files compressed with gzip or zstd, read as what is inside, in bounded memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from opensloth.datasets.records import damaged
from opensloth.errors import TooLarge

Compression = Literal["gzip", "zstd"]

MAGIC: tuple[tuple[bytes, Compression], ...] = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))
MAX_RATIO = 200
"""How many times its size a file may unpack to: text shrinks by less than 30, the same line over and over by more."""
UNSUSPICIOUS_BYTES = 64 * 2**20
"""What every file may unpack to, however small it is."""


def compression_of(head: bytes) -> Compression | None:
    """How a file that starts with `head` is compressed; None if it is not."""
    return next((name for magic, name in MAGIC if head.startswith(magic)), None)


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """`path` open for reading from its start, unpacked on the way if it is compressed.

    Reading raises InvalidDataset for damage and TooLarge for a file that unpacks beyond all measure.
    """
    with path.open("rb") as file:
        compression = compression_of(file.read(4))
        file.seek(0)
        if compression is None:
            yield file
            return
        limit = max(UNSUSPICIOUS_BYTES, MAX_RATIO * path.stat().st_size)
        with _unpacking(file, compression) as stream:
            yield cast(BinaryIO, Bounded(stream, compression, limit))


def plain_name(filename: str) -> str:
    """The name of what is inside: without `.gz`, `.gzip`, `.zst` or `.zstd`."""
    stem, dot, ending = filename.rpartition(".")
    return stem if dot and ending.lower() in ("gz", "gzip", "zst", "zstd") else filename


class Bounded:
    """Reads a compressed stream up to a limit, and says what is wrong with it in our words."""

    def __init__(self, stream: Any, compression: Compression, limit: int) -> None:
        self._stream = stream
        self._compression = compression
        self._limit = limit
        self._position = 0

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`."""
        try:
            data = bytes(self._stream.read(size))
        except (EOFError, OSError, ValueError, zlib.error) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            message = f"the {self._compression} data is damaged or cut off ({reason}); compress the file again"
            raise damaged(1, message) from None
        self._position += len(data)
        if self._position > self._limit:
            raise TooLarge(
                f"the file unpacks to more than {self._limit:,} bytes, {MAX_RATIO} times its size",
                code="unpacks_too_large",
                hint="upload it uncompressed, or without the rows that repeat",
            )
        return data


@contextmanager
def _unpacking(file: BinaryIO, compression: Compression) -> Iterator[Any]:
    if compression == "gzip":
        with gzip.GzipFile(fileobj=file) as stream:
            yield stream
        return
    import pyarrow

    with pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd") as stream:
        yield stream
