"""Logs that grow: a file in a directory; in an object store, which cannot append, objects of a megabyte each.

Part `N` of a log holds its bytes from N on, at most PART_BYTES of them, and N is a multiple of that. Only the last part
is ever written anew, so that a log of n bytes costs n, and what is written twice is written the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from opensloth.storage.store import Storage

PART_BYTES = 1 << 20


class LogWriter:
    """Copies a growing file to a key, from its beginning; what an earlier writer left there goes."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._begun = False
        self.offset = 0
        """How far the file is in storage, in bytes."""

    def ship(self, local: Path) -> None:
        """Store what was written since the last call. Raises OSError or StorageUnavailable; then call it again."""
        if not local.exists():
            return
        with local.open("rb") as file:
            while file.seek(0, os.SEEK_END) > self.offset:
                start = self.offset - self.offset % PART_BYTES
                file.seek(start)
                block = file.read(PART_BYTES)
                self._write(block, start)
                self.offset = start + len(block)

    def _write(self, block: bytes, start: int) -> None:
        if not self._begun:
            self._storage.delete(self._key)
            self._begun = True
        path = self._storage.local_path(self._key)
        if path is None:
            self._storage.put_bytes(_part(self._key, start), block)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            news = memoryview(block)[self.offset - start :]
            written = 0
            while written < len(news):
                written += os.pwrite(handle, news[written:], self.offset + written)
        finally:
            os.close(handle)


def read_log(storage: Storage, key: str, offset: int, most: int) -> bytes:
    """At most `most` bytes of a log from `offset` on; nothing where there is no more yet."""
    path = storage.local_path(key)
    start = 0 if path is not None else offset - offset % PART_BYTES
    name = key if path is not None else _part(key, start)
    try:
        if storage.size(name) <= offset - start:
            return b""
        with storage.open(name) as file:
            file.seek(offset - start)
            return file.read(most)
    except FileNotFoundError:
        return b""


def _part(key: str, start: int) -> str:
    return f"{key}/{start:015d}"
