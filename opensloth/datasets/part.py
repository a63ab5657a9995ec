"""One part of an upload on its way in: bytes that nobody looks at before the whole is there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from opensloth.datasets.upload import disk_errors
from opensloth.errors import TooLarge

MAX_PART_BYTES = 64 * 2**20


class PartSpool:
    """The temporary file of one part. Call `discard` at the end, whatever happened."""

    def __init__(self, folder: Path) -> None:
        self.bytes = 0
        with disk_errors():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(prefix="part-", dir=folder)
        self.path = Path(name)
        self._file = os.fdopen(handle, "wb")

    def write(self, data: bytes) -> None:
        """Take the next bytes; raises TooLarge beyond 64 MiB."""
        self.bytes += len(data)
        if self.bytes > MAX_PART_BYTES:
            raise TooLarge(
                f"the part is larger than {MAX_PART_BYTES:,} bytes", code="part_too_large", hint="send smaller parts"
            )
        with disk_errors():
            self._file.write(data)

    def close(self) -> None:
        """End the content."""
        with disk_errors():
            self._file.close()

    def discard(self) -> None:
        """Remove the temporary file, if it is still there."""
        try:
            self._file.close()
        finally:
            self.path.unlink(missing_ok=True)
