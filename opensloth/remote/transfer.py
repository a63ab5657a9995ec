"""Files on their way: uploads that report progress, downloads that are whole or not there."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from opensloth.remote.errors import TransferCorrupt, Unreachable
from opensloth.remote.transport import Transport, backoff

ProgressCallback = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

CHUNK = 1 << 20
RESUMES = 5


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class CountedReader:
    """A file for reading that tells a callback how far it was read."""

    def __init__(self, file: IO[bytes], total: int, progress: ProgressCallback | None) -> None:
        self._file = file
        self._total = total
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        """The next bytes, in the larger pieces that a fast upload needs."""
        data = self._file.read(max(size, CHUNK) if size > 0 else size)
        if self._progress is not None:
            self._progress(self._file.tell(), self._total)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves in the file, as a request does that is sent again."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position in the file."""
        return self._file.tell()


def download(
    transport: Transport,
    path: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Writes what the server has at `path` to `target`, at once and only if it is whole.

    A part that an earlier call left (`<target>.part`) is continued if the server can; a broken connection is too.
    With `sha256` a target that is there already is not fetched. Raises TransferCorrupt if the content is not what
    `sha256` says, ClientError otherwise.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if sha256 is not None and target.is_file() and sha256_of(target) == sha256:
        return target
    part = target.with_name(f"{target.name}.part")
    if sha256 is None:
        part.unlink(missing_ok=True)
    whole = sha256 is not None and part.exists() and sha256_of(part) == sha256
    for attempt in range(1, RESUMES + 1):
        if whole:
            break
        try:
            _fetch(transport, path, part, progress)
            break
        except Unreachable as problem:
            if attempt == RESUMES or problem.code != "connection_lost":
                raise
            time.sleep(backoff(attempt))
    if sha256 is not None and sha256_of(part) != sha256:
        part.unlink()
        raise TransferCorrupt(
            f"{target.name} arrived changed: its SHA-256 is not {sha256[:12]}....",
            code="corrupt_download",
            hint="Try again; if it happens again the server's storage is damaged.",
        )
    part.replace(target)
    return target


def _fetch(transport: Transport, path: str, part: Path, progress: ProgressCallback | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    with transport.stream("GET", path, headers=headers, timeout=60.0) as response:
        continued = response.status_code == 206
        done = have if continued else 0
        total = done + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if continued else "wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, max(total, done))
            file.flush()
            os.fsync(file.fileno())
