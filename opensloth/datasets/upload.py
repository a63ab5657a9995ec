"""A file on its way in: spooled, hashed and checked piece by piece, kept only if all of it is good."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from opensloth.datasets.check import Checker
from opensloth.datasets.report import FileCheck
from opensloth.errors import InsufficientStorage, TooLarge

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
MAX_NAME = 255
LOOK_EVERY_BYTES = 64 * 2**20
"""How often a growing upload looks whether there is still room."""


class Spool:
    """The temporary file of one upload. Call `discard` at the end, whatever happened."""

    def __init__(
        self, folder: Path, filename: str, max_bytes: int, max_line_bytes: int, require_room: Callable[[], None]
    ) -> None:
        self.filename = clean_filename(filename)
        self._max_bytes = max_bytes
        self._require_room = require_room
        self._look_at = LOOK_EVERY_BYTES
        self._checker = Checker(self.filename, max_line_bytes)
        self._digest = hashlib.sha256()
        self.bytes = 0
        with disk_errors():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(prefix="upload-", dir=folder)
        self.path = Path(name)
        self._file = os.fdopen(handle, "wb")

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises TooLarge beyond the limit and InvalidDataset for rows that cannot be read."""
        self.bytes += len(data)
        if self.bytes > self._max_bytes:
            raise TooLarge(
                f"the file is larger than {self._max_bytes:,} bytes",
                code="file_too_large",
                hint="split it into several files",
            )
        if self.bytes >= self._look_at:
            self._require_room()
            self._look_at = self.bytes + LOOK_EVERY_BYTES
        with disk_errors():
            self._file.write(data)
        self._digest.update(data)
        self._checker.feed(data)

    def is_late(self) -> bool:
        """Whether `check` has all rows still to read, once all bytes are in. Raises as `write` does."""
        return self._checker.is_late()

    def close(self) -> str:
        """End the content; returns its SHA-256 in hex."""
        with disk_errors():
            self._file.close()
        return self._digest.hexdigest()

    def check(self) -> FileCheck:
        """What the check found, after `close`. Raises as `write` does."""
        return self._checker.finish(self.path)

    def discard(self) -> None:
        """Remove the temporary file, if it is still there."""
        try:
            self._file.close()
        finally:
            self.path.unlink(missing_ok=True)


@contextmanager
def disk_errors() -> Iterator[None]:
    """A full disk as InsufficientStorage."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "delete files and jobs that nobody needs, or tell an admin"
            raise InsufficientStorage("the server's disk is full", hint=hint) from error
        raise


def clean_filename(name: str) -> str:
    """The name that is shown: without folders and control characters, at most 255 characters."""
    last = _CONTROL.sub("", name.replace("\\", "/").rsplit("/", 1)[-1]).strip()
    return last[:MAX_NAME] if last not in ("", ".", "..") else "file"
