"""Many stored files as one ZIP archive, made while it is sent: nothing of it is ever whole in memory or on disk."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator

from api.stored import chunks
from opensloth.storage import Storage

# The same files give the same archive, byte for byte.
EPOCH = (1980, 1, 1, 0, 0, 0)


class _Pipe:
    """A file that can only be written to, and emptied."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """There is nothing to close."""

    def taken(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def zip_stream(storage: Storage, entries: Iterable[tuple[str, str]]) -> Iterator[bytes]:
    """The archive of `entries`, (name in the archive, storage key); weights do not compress, so they are stored."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for name, key in entries:
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as member:
                for piece in chunks(storage, key):
                    member.write(piece)
                    yield pipe.taken()
            yield pipe.taken()
    yield pipe.taken()
