"""One interface over a shared directory or any fsspec URL; a tree in it is complete or not there.

A tree is a folder with a `MANIFEST.json` that lists every file with its size and SHA-256. In a directory it is written
aside, fsynced and renamed; in an object store the manifest is written last. Whoever finds no manifest finds no tree.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from opensloth.errors import OpenSlothError
from opensloth.storage.local import copy_durably, fsync_path, move_into_place

MANIFEST = "MANIFEST.json"
ASIDE = ".aside"
"""Where trees and files are written before they are renamed."""


class StorageCorrupt(OpenSlothError):
    """What is stored is not what was written."""

    code = "storage_corrupt"


@dataclass(frozen=True)
class StoredFile:
    """One file of a tree: its path inside the tree, its size in bytes and its SHA-256 in hex."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Usage:
    """Bytes under a key, and when the newest of it was written, in seconds since 1970 (0 if there is nothing)."""

    bytes: int
    newest: float


class Storage:
    """The store behind `OPENSLOTH_STORAGE_URL`; keys are relative POSIX paths made by the server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._root: Path | None = None
        if "://" not in url or url.startswith("file://"):
            self._root = Path(url.removeprefix("file://")).expanduser().absolute()
            self._root.mkdir(parents=True, exist_ok=True)
        else:
            import fsspec

            self._fs, self._base = fsspec.core.url_to_fs(url)

    @property
    def folder(self) -> Path | None:
        """The directory behind a store that is one."""
        return self._root

    # Single files

    def put_file(self, local: Path, key: str) -> None:
        """Store `local` under `key`, whole or not at all; moves it when both lie on one filesystem."""
        if self._root is None:
            self._fs.put_file(str(local), self._remote(key))
            local.unlink()
            return
        fsync_path(local)
        move_into_place(local, self._path(key), self._aside())

    def open(self, key: str) -> BinaryIO:
        """Open for reading; raises FileNotFoundError."""
        if self._root is None:
            return cast(BinaryIO, self._fs.open(self._remote(key), "rb"))
        return self._path(key).open("rb")

    def append(self, key: str, data: bytes) -> None:
        """Add to a log. An object store cannot append, so there the object is written anew."""
        if self._root is None:
            remote = self._remote(key)
            old = self._fs.cat_file(remote) if self._fs.exists(remote) else b""
            self._fs.pipe_file(remote, old + data)
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)

    def size(self, key: str) -> int:
        """Size in bytes; raises FileNotFoundError."""
        return int(self._fs.size(self._remote(key))) if self._root is None else self._path(key).stat().st_size

    def exists(self, key: str) -> bool:
        """Whether a file or a folder is there (a tree is complete only if `list_tree` says so)."""
        return bool(self._fs.exists(self._remote(key))) if self._root is None else self._path(key).exists()

    def local_path(self, key: str) -> Path | None:
        """The path behind `key` where the store is a directory, to be read only; else None."""
        return None if self._root is None else self._path(key)

    def delete(self, key: str) -> None:
        """Remove a file or a tree; the manifest goes first, so that no half tree looks complete."""
        if self._root is None:
            remote = self._remote(key)
            if self._fs.exists(f"{remote}/{MANIFEST}"):
                self._fs.rm_file(f"{remote}/{MANIFEST}")
            if self._fs.exists(remote):
                self._fs.rm(remote, recursive=True)
            return
        path = self._path(key)
        # The same name each time: what a killed process left of it, the next one to delete the key removes.
        doomed = self._root / ASIDE / f"deleted-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
        shutil.rmtree(doomed, ignore_errors=True)
        if path.is_dir():
            doomed.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process deletes it at the same time
                path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def usage(self, key: str) -> Usage:
        """What lies under `key`, a file or a folder with all in it; nothing, if there is nothing."""
        if self._root is None:
            remote = self._remote(key)
            found = self._fs.find(remote, detail=True).values() if self._fs.exists(remote) else []
            times = [entry.get("LastModified") or entry.get("mtime") or entry.get("created") for entry in found]
            return Usage(sum(int(entry["size"] or 0) for entry in found), max(map(_seconds, times), default=0.0))
        path = self._path(key)
        size, newest = 0, 0.0
        for entry in [path, *(path.rglob("*") if path.is_dir() else [])]:
            with contextlib.suppress(FileNotFoundError):  # it is being removed while we look
                stat = entry.stat()
                size += 0 if entry.is_dir() else stat.st_size
                newest = max(newest, stat.st_mtime)
        return Usage(size, newest)

    def list_keys(self, prefix: str) -> list[str]:
        """The names one level below `prefix`, sorted."""
        if self._root is None:
            remote = self._remote(prefix)
            if not self._fs.exists(remote):
                return []
            return sorted(PurePosixPath(name.rstrip("/")).name for name in self._fs.ls(remote, detail=False))
        path = self._path(prefix)
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def sweep(self, older_than_s: float = 86_400.0) -> None:
        """Remove what killed writers left aside long ago."""
        if self._root is None or not (self._root / ASIDE).is_dir():
            return
        for entry in (self._root / ASIDE).iterdir():
            if time.time() - entry.stat().st_mtime > older_than_s:
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)

    def scratch(self, fallback: Path) -> Path:
        """A folder from which `put_file` and `put_tree` can move instead of copy; `fallback` for an object store."""
        folder = fallback if self._root is None else self._root / ASIDE
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # Trees

    def put_tree(self, local: Path, key: str, *, move: bool = False) -> list[StoredFile]:
        """Store the folder `local` as the tree `key`, replacing an older one; `move` allows to take the files away."""
        names = sorted(p.relative_to(local).as_posix() for p in local.rglob("*") if p.is_file() and p.name != MANIFEST)
        if self._root is None:
            return self._put_tree_remote(local, key, names)
        aside = self._aside()
        if move:
            try:
                local.rename(aside)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        if aside.exists():
            files = [self._stored(aside / name, name) for name in names]
            for name in names:
                fsync_path(aside / name)
        else:
            files = [StoredFile(name, *copy_durably(local / name, aside / name)) for name in names]
        aside.mkdir(parents=True, exist_ok=True)
        manifest = aside / MANIFEST
        manifest.write_text(_manifest(files))
        for folder in {manifest.parent, *((aside / name).parent for name in names)}:
            fsync_path(folder)
        fsync_path(manifest)
        move_into_place(aside, self._path(key), self._aside())
        return files

    def list_tree(self, key: str) -> list[StoredFile] | None:
        """The files of a complete tree from its manifest; None if the tree is not there."""
        try:
            with self.open(f"{key}/{MANIFEST}") as file:
                listed = json.load(file)["files"]
            return [StoredFile(entry["name"], entry["bytes"], entry["sha256"]) for entry in listed]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StorageCorrupt(f"the manifest of {key} cannot be read: {error}") from error

    def verify_tree(self, key: str) -> list[StoredFile]:
        """Read every file of the tree; raises StorageCorrupt for one that is missing or differs."""
        files = self.list_tree(key)
        if files is None:
            raise StorageCorrupt(f"{key} is not complete: it has no {MANIFEST}")
        for stored in files:
            try:
                with self.open(f"{key}/{stored.name}") as file:
                    found = _digest(file)
            except FileNotFoundError:
                raise StorageCorrupt(f"{key}/{stored.name} is missing") from None
            if found != (stored.bytes, stored.sha256):
                raise StorageCorrupt(f"{key}/{stored.name} differs from its manifest")
        return files

    def get_tree(self, key: str, local: Path) -> None:
        """Copy a tree into the folder `local`, verified while it is copied; raises StorageCorrupt."""
        files = self.list_tree(key)
        if files is None:
            raise StorageCorrupt(f"{key} is not complete: it has no {MANIFEST}")
        for stored in files:
            target = local / stored.name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self.open(f"{key}/{stored.name}") as source, target.open("wb") as sink:
                    found = _digest(source, sink)
            except FileNotFoundError:
                raise StorageCorrupt(f"{key}/{stored.name} is missing") from None
            if found != (stored.bytes, stored.sha256):
                raise StorageCorrupt(f"{key}/{stored.name} differs from its manifest")

    def _put_tree_remote(self, local: Path, key: str, names: list[str]) -> list[StoredFile]:
        self.delete(key)
        files = [self._stored(local / name, name) for name in names]
        for name in names:
            self._fs.put_file(str(local / name), self._remote(f"{key}/{name}"))
        self._fs.pipe_file(self._remote(f"{key}/{MANIFEST}"), _manifest(files).encode())
        return files

    @staticmethod
    def _stored(path: Path, name: str) -> StoredFile:
        with path.open("rb") as file:
            return StoredFile(name, *_digest(file))

    def _path(self, key: str) -> Path:
        assert self._root is not None
        return self._root / _checked(key)

    def _remote(self, key: str) -> str:
        return f"{self._base}/{_checked(key)}"

    def _aside(self) -> Path:
        assert self._root is not None
        folder = self._root / ASIDE
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{os.getpid()}-{uuid.uuid4().hex}"


def _checked(key: str) -> str:
    """Keys are made by the server; one that leaves the store is a bug, and stopped here all the same."""
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in key:
        raise ValueError(f"not a storage key: {key!r}")
    return str(path)


def _seconds(time_of: Any) -> float:
    """A store's time as seconds since 1970; a file of unknown age counts as new."""
    if isinstance(time_of, datetime):
        return time_of.timestamp()
    return float(time_of) if isinstance(time_of, int | float) else time.time()


def _manifest(files: list[StoredFile]) -> str:
    return json.dumps({"files": [asdict(file) for file in files]}, indent=1)


def _digest(source: IO[bytes], sink: IO[bytes] | None = None) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
        if sink is not None:
            sink.write(chunk)
    return size, digest.hexdigest()
