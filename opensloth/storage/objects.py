"""An object store behind an fsspec URL: whole objects, tried again while the store is away, and one kind of error."""

from __future__ import annotations

import io
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

from opensloth.errors import FieldError, InvalidInput
from opensloth.storage.errors import FULL, StorageUnavailable, patiently
from opensloth.storage.manifest import MANIFEST, StoredFile, Usage, digest, written

log = logging.getLogger(__name__)
T = TypeVar("T")

BLOCK_BYTES = 8 << 20
"""What is fetched at a time by whoever reads an object in pieces, and sent at a time of a large one."""
EXTRAS = {"s3": "opensloth[s3]", "s3a": "opensloth[s3]", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_LASTING = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_BUGS = (TypeError, ValueError, KeyError, AttributeError, NotImplementedError)


class ObjectStore:
    """Objects by key. Raises FileNotFoundError for what is not there, StorageUnavailable for all else."""

    def __init__(self, url: str, patience_s: float) -> None:
        self._patience_s = patience_s
        self._protocol = url.partition("://")[0]
        self._fs, base = _filesystem(url, self._protocol)
        self._base = str(base).rstrip("/")

    def path(self, key: str) -> str:
        """The object's path as fsspec names it; the store's own for the empty key."""
        return f"{self._base}/{key}".rstrip("/")

    def put_file(self, local: Path, key: str) -> None:
        """Send a local file, then remove it."""
        self._send(local, key)
        local.unlink()

    def put_bytes(self, key: str, content: bytes) -> None:
        """Store `content`, whole or not at all."""
        self._do(lambda: self._fs.pipe_file(self.path(key), content))

    def put_tree(self, local: Path, key: str, names: list[str], *, move: bool) -> list[StoredFile]:
        """Send the files, and the manifest once each is there in its full size."""
        self.delete(key)
        files = [StoredFile.of(local / name, name) for name in names]
        for name in names:
            self._send(local / name, f"{key}/{name}")
        there = self.sizes(key)
        for file in files:
            if there.get(file.name) != file.bytes:
                has = there.get(file.name, "none")
                raise StorageUnavailable(f"the storage took {key}/{file.name} and has {has} of its {file.bytes} bytes")
        self.put_bytes(f"{key}/{MANIFEST}", written(files))
        if move:
            shutil.rmtree(local, ignore_errors=True)
        return files

    def get_file(self, key: str, local: Path) -> tuple[int, str]:
        """Copy an object into a local file; returns its size and SHA-256."""
        self._do(lambda: self._fs.get_file(self.path(key), str(local)))
        with local.open("rb") as file:
            return digest(file)

    def get_bytes(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """The object's bytes `start` to `end`, which must lie inside it; all of them by default."""
        return cast(bytes, self._do(lambda: self._fs.cat_file(self.path(key), start=start, end=end)))

    def open(self, key: str) -> BinaryIO:
        """For reading, in blocks, each of which is tried again by itself."""
        size = self.size(key)
        reader = _Reader(lambda start, end: self.get_bytes(key, start, end), size)
        return cast(BinaryIO, io.BufferedReader(reader, min(BLOCK_BYTES, max(size, 1))))

    def size(self, key: str) -> int:
        """In bytes."""
        return int(self._do(lambda: self._fs.info(self.path(key)))["size"] or 0)

    def exists(self, key: str) -> bool:
        """Whether there is an object, or one below the key."""
        return bool(self._do(lambda: self._fs.exists(self.path(key))))

    def usage(self, key: str) -> Usage:
        """What lies at or below the key."""
        found = self._find(key).values()
        return Usage(sum(int(entry["size"] or 0) for entry in found), max(map(_seconds, found), default=0.0))

    def sizes(self, key: str) -> dict[str, int]:
        """Bytes of every object below the key, by its name below it."""
        return {name: int(entry["size"] or 0) for name, entry in sorted(self._find(key).items())}

    def names(self, key: str) -> list[str]:
        """The names one level below the key, sorted."""
        remote = self.path(key)
        try:
            listed = self._do(lambda: self._fs.ls(remote, detail=False))
        except FileNotFoundError:
            return []
        below = (path.rstrip("/") for path in listed if path.strip("/") != remote.strip("/"))
        return sorted(PurePosixPath(path).name for path in below)

    def delete(self, key: str) -> None:
        """Remove an object and everything below the key, the manifest first: no half tree looks complete."""
        for name in (f"{key}/{MANIFEST}", key):
            with suppress(FileNotFoundError):
                self._do(partial(self._fs.rm, self.path(name), recursive=True))

    def ping(self) -> None:
        """Raise StorageUnavailable unless the store answers and what the URL names in it is there."""
        container = self._base.strip("/").partition("/")[0]
        if self._protocol == "memory" or self._ask(lambda: self._fs.exists(self._base)):
            return
        if not self._ask(lambda: self._fs.exists(container)):
            raise StorageUnavailable(f"the storage has no bucket {container!r}", hint="make it, or correct its name")

    def sweep(self, older_than_s: float) -> None:
        """Give up what killed writers had begun to send: S3 keeps, and bills, the parts of uploads without an end."""
        if self._protocol not in ("s3", "s3a"):
            return
        bucket, _, prefix = self._base.partition("/")
        for upload in self._ask(lambda: self._fs.list_multipart_uploads(bucket)) or []:
            begun: datetime = upload["Initiated"]
            if upload["Key"].startswith(prefix) and time.time() - begun.timestamp() > older_than_s:
                names = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                self._ask(partial(self._fs.call_s3, "abort_multipart_upload", **names))

    def _send(self, local: Path, key: str) -> None:
        options = {"chunksize": 2 * BLOCK_BYTES} if self._protocol in ("s3", "s3a") else {}
        self._do(lambda: self._fs.put_file(str(local), self.path(key), **options))

    def _find(self, key: str) -> dict[str, dict[str, Any]]:
        """Every object at or below the key, by its name below it (the empty one for the object itself)."""
        remote = self.path(key)
        try:
            found = self._do(lambda: self._fs.find(remote, detail=True))
        except FileNotFoundError:
            return {}
        plain = remote.lstrip("/")
        return {path.lstrip("/").removeprefix(plain).lstrip("/"): entry for path, entry in found.items()}

    def _do(self, work: Callable[[], T]) -> T:
        return self._told(lambda: patiently(work, _may_pass, self._patience_s))

    def _ask(self, work: Callable[[], T]) -> T:
        """Once: whoever asks will ask again."""
        return self._told(work)

    def _told(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in FULL:
                raise  # the local disk: no store says so
            refused = "refuses" if isinstance(error, PermissionError) else "does not answer"
            raise StorageUnavailable(f"the storage {refused}: {_words(error)}", hint=_HINT) from error
        except _BUGS:
            raise
        except Exception as error:  # whatever the store's driver raises
            raise StorageUnavailable(f"the storage does not answer: {_words(error)}", hint=_HINT) from error


_HINT = "try again in a moment; an admin finds the cause in the log"


class _Reader(io.RawIOBase):
    """An object as a file: what is read is fetched when it is asked for."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch, self._size, self._at = fetch, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readall(self) -> bytes:
        pieces = []
        while self._at < self._size:  # by default it would ask for 8 KiB at a time
            pieces.append(self._fetch(self._at, min(self._size, self._at + BLOCK_BYTES)))
            self._at += len(pieces[-1])
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        end = min(self._size, self._at + len(buffer))
        if end <= self._at:
            return 0
        piece = self._fetch(self._at, end)
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def _seconds(entry: dict[str, Any]) -> float:
    """When an object was written, in seconds since 1970; one of unknown age counts as new."""
    written = entry.get("LastModified") or entry.get("mtime") or entry.get("created")
    if isinstance(written, datetime):
        return written.timestamp()
    return float(written) if isinstance(written, int | float) else time.time()


def _filesystem(url: str, protocol: str) -> tuple[Any, str]:
    import fsspec

    # A listing that is kept would hide what other processes have written since.
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        # s3fs tries each call five times itself; a server that is gone must show within seconds.
        options["config_kwargs"] = {"connect_timeout": 3, "read_timeout": 30, "retries": {"max_attempts": 1}}
        options["max_concurrency"] = 4
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        package = EXTRAS.get(protocol)
        message = f"cannot be used: {error}" + (f"; pip install '{package}'" if package else "")
        raise InvalidInput(
            f"OPENSLOTH_STORAGE_URL {message}", fields=[FieldError("OPENSLOTH_STORAGE_URL", message)]
        ) from error
    return found


def _may_pass(error: Exception) -> bool:
    if isinstance(error, (FileNotFoundError, *_LASTING, *_BUGS)) or type(error).__name__ == "NoCredentialsError":
        return False
    return not (isinstance(error, OSError) and error.errno in FULL)


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
