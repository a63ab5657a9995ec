"""One interface over a shared directory or any fsspec URL; a tree in it is complete or not there.

A tree is a folder with a `MANIFEST.json` that lists every file with its size and SHA-256. In a directory it is written
aside, fsynced and renamed; in an object store the manifest is written last, once every file is there in its full
size. Whoever finds no manifest finds no tree.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from opensloth.storage.errors import (
    PATIENCE_S,
    StorageCorrupt,
    StorageUnavailable,
    folder_may_recover,
    patiently,
)
from opensloth.storage.local import copy_durably, fsync_path, move_into_place
from opensloth.storage.manifest import MANIFEST, StoredFile, digest, listed, written
from opensloth.storage.objects import ObjectStore, seconds

T = TypeVar("T")
ASIDE = ".aside"
"""Where trees and files are written before they are renamed."""
MARK = ".opensloth"
"""A file that tells a directory store from the empty place where its disk would be mounted."""


@dataclass(frozen=True)
class Usage:
    """Bytes under a key, and when the newest of it was written, in seconds since 1970 (0 if there is nothing)."""

    bytes: int
    newest: float


class Storage:
    """The store behind `OPENSLOTH_STORAGE_URL`; keys are relative POSIX paths made by the server.

    What does not answer is tried again for `patience_s` seconds; then it is StorageUnavailable. So is a directory that
    had its mark, or is `known` to have had it, while that is gone.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S, *, known: bool = False) -> None:
        self.url = url
        self._patience_s = patience_s
        self._root: Path | None = None
        self._objects: ObjectStore | None = None
        if "://" not in url or url.startswith("file://"):
            self._root = Path(url.removeprefix("file://")).expanduser().absolute()
            if not known:
                self._root.mkdir(parents=True, exist_ok=True)
            self._marked = known or (self._root / MARK).exists()
        else:
            self._objects = ObjectStore(url, patience_s)

    @property
    def folder(self) -> Path | None:
        """The directory behind a store that is one."""
        return self._root

    def mark(self) -> None:
        """Leave the mark in a directory store that has none; raises OSError."""
        if self._root is not None and not self._marked:
            (self._root / MARK).touch()
            self._marked = True

    def require_there(self) -> None:
        """Raise StorageUnavailable where the disk of a directory store is not mounted."""
        if self._root is not None:
            _ = self._folder

    def ping(self) -> None:
        """Raise StorageUnavailable or OSError unless the store answers."""
        if self._objects is not None:
            self._objects.ping()
        elif not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            raise StorageUnavailable(f"{self._folder} cannot be read and written", hint="look at its mount and owner")

    # Single files

    def put_file(self, local: Path, key: str) -> None:
        """Store `local` under `key`, whole or not at all, and remove it; moves it inside one filesystem."""
        if self._objects is not None:
            self._objects.put_file(local, _checked(key))
            local.unlink()
            return
        self._again(lambda: fsync_path(local))
        self._place(local, key)

    def put_bytes(self, key: str, content: bytes) -> None:
        """Store a small file, whole or not at all."""
        if self._objects is not None:
            self._objects.put_bytes(_checked(key), content)
            return
        aside = self._aside()

        def write() -> None:
            aside.write_bytes(content)
            fsync_path(aside)

        self._again(write)
        self._place(aside, key)

    def open(self, key: str) -> BinaryIO:
        """Open for reading; raises FileNotFoundError."""
        if self._objects is not None:
            return self._objects.open(_checked(key))
        return self._again(lambda: self._path(key).open("rb"))

    def size(self, key: str) -> int:
        """Size in bytes; raises FileNotFoundError."""
        return self._objects.size(_checked(key)) if self._objects is not None else self._path(key).stat().st_size

    def exists(self, key: str) -> bool:
        """Whether a file or a folder is there (a tree is complete only if `list_tree` says so)."""
        return self._objects.exists(_checked(key)) if self._objects is not None else self._path(key).exists()

    def local_path(self, key: str) -> Path | None:
        """The path behind `key` where the store is a directory, to be read only; else None."""
        return None if self._objects is not None else self._path(key)

    def delete(self, key: str) -> None:
        """Remove a file or a tree; the manifest goes first, so that no half tree looks complete."""
        if self._objects is not None:
            self._objects.delete(_checked(f"{key}/{MANIFEST}"))
            self._objects.delete(_checked(key))
            return
        path = self._path(key)
        # The same name each time: what a killed process left of it, the next one to delete the key removes.
        doomed = self._folder / ASIDE / f"deleted-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
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
        if self._objects is not None:
            found = self._objects.find(_checked(key)).values()
            return Usage(sum(int(entry["size"] or 0) for entry in found), max(map(seconds, found), default=0.0))
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
        if self._objects is not None:
            return self._objects.names(_checked(prefix))
        path = self._path(prefix)
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def list_files(self, key: str) -> dict[str, int]:
        """Bytes of every file below `key`, by its path below it."""
        if self._objects is not None:
            return {name: int(entry["size"] or 0) for name, entry in self._objects.find(_checked(key)).items()}
        path, found = self._path(key), {}
        for entry in sorted(path.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # it is being removed while we look
                if entry.is_file():
                    found[entry.relative_to(path).as_posix()] = entry.stat().st_size
        return found

    def list_all(self) -> dict[str, int]:
        """Bytes of every file by its key, but for what lies aside."""
        if self._objects is not None:
            return {name: int(entry["size"] or 0) for name, entry in sorted(self._objects.find("").items())}
        tops = (entry for entry in sorted(self._folder.iterdir()) if entry.name != ASIDE)
        return {f"{top.name}/{name}": size for top in tops for name, size in self.list_files(top.name).items()}

    def sweep(self, older_than_s: float = 86_400.0) -> None:
        """Remove what killed writers left aside long ago."""
        if self._objects is not None:
            self._objects.abort_uploads(older_than_s)
            return
        if not (self._folder / ASIDE).is_dir():
            return
        for entry in (self._folder / ASIDE).iterdir():
            with contextlib.suppress(FileNotFoundError):  # its writer has just put it into its place
                if time.time() - entry.stat().st_mtime > older_than_s:
                    if entry.is_dir():
                        shutil.rmtree(entry, ignore_errors=True)
                    else:
                        entry.unlink()

    def scratch(self, fallback: Path) -> Path:
        """A folder from which `put_file` and `put_tree` can move instead of copy; `fallback` for an object store."""
        folder = fallback if self._root is None else self._folder / ASIDE
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # Trees

    def put_tree(self, local: Path, key: str, *, move: bool = False) -> list[StoredFile]:
        """Store the folder `local` as the tree `key`, replacing an older one; `move` allows to take the files away."""
        names = sorted(p.relative_to(local).as_posix() for p in local.rglob("*") if p.is_file() and p.name != MANIFEST)
        if self._objects is not None:
            files = self._put_tree_remote(self._objects, local, key, names)
            if move:
                shutil.rmtree(local, ignore_errors=True)
            return files
        aside = self._aside()
        if move:
            try:
                local.rename(aside)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        copy_from = None if aside.exists() else local
        try:
            files = self._again(lambda: _laid_out(aside, names, copy_from))
            self._again(lambda: _finish(aside, files))
            self._place(aside, key)
        except Exception:
            shutil.rmtree(aside, ignore_errors=True)  # half a tree must not fill the disk that was too full for it
            raise
        return files

    def list_tree(self, key: str) -> list[StoredFile] | None:
        """The files of a complete tree from its manifest; None if the tree is not there."""
        try:
            return listed(self._manifest(key))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StorageCorrupt(f"the manifest of {key} cannot be read: {error}") from error

    def verify_tree(self, key: str) -> list[StoredFile]:
        """Read every file of the tree; raises StorageCorrupt for one that is missing or differs."""
        files = self._require_tree(key)
        for stored in files:
            try:
                with self.open(f"{key}/{stored.name}") as file:
                    _require_same(key, stored, digest(file))
            except FileNotFoundError:
                raise StorageCorrupt(f"{key}/{stored.name} is missing") from None
        return files

    def get_tree(self, key: str, local: Path) -> None:
        """Copy a tree into the folder `local`, verified while it is copied; raises StorageCorrupt."""
        for stored in self._require_tree(key):
            target = local / stored.name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                _require_same(key, stored, self.get_file(f"{key}/{stored.name}", target))
            except FileNotFoundError:
                raise StorageCorrupt(f"{key}/{stored.name} is missing") from None

    def get_file(self, key: str, local: Path) -> tuple[int, str]:
        """Copy a file; returns the size and SHA-256 of what came. Raises FileNotFoundError."""
        if self._objects is not None:
            self._objects.get_file(_checked(key), local)
            with local.open("rb") as file:
                return digest(file)

        def copy() -> tuple[int, str]:
            with self._path(key).open("rb") as source, local.open("wb") as sink:
                return digest(source, sink)

        return self._again(copy)  # a mount may fail in the middle as well

    def _manifest(self, key: str) -> bytes:
        name = f"{key}/{MANIFEST}"
        if self._objects is not None:
            return self._objects.get_bytes(_checked(name))
        return self._again(lambda: self._path(name).read_bytes())

    def _require_tree(self, key: str) -> list[StoredFile]:
        files = self.list_tree(key)
        if files is None:
            raise StorageCorrupt(f"{key} is not complete: it has no {MANIFEST}")
        return files

    def _put_tree_remote(self, objects: ObjectStore, local: Path, key: str, names: list[str]) -> list[StoredFile]:
        self.delete(key)
        files = [StoredFile.of(local / name, name) for name in names]
        for name in names:
            objects.put_file(local / name, _checked(f"{key}/{name}"))
        there = self.list_files(key)
        for file in files:
            if there.get(file.name) != file.bytes:
                has = there.get(file.name, "none")
                raise StorageUnavailable(f"the storage took {key}/{file.name} and has {has} of its {file.bytes} bytes")
        objects.put_bytes(_checked(f"{key}/{MANIFEST}"), written(files))
        return files

    @property
    def _folder(self) -> Path:
        assert self._root is not None
        if self._marked and not _may_be_there(self._root / MARK):
            raise StorageUnavailable(
                f"the storage {self._root} is not there",
                hint=f"mount its disk; to go on with what is there instead, make the file {MARK} in it",
            )
        return self._root

    def _path(self, key: str) -> Path:
        return self._folder / _checked(key)

    def _place(self, source: Path, key: str) -> None:
        """Rename what lies on the disk to its key."""
        target, free = self._path(key), self._aside()

        def place() -> None:
            if source.exists():  # else only the folder's entries were not flushed
                move_into_place(source, target, free)
            fsync_path(target.parent)

        self._again(place)

    def _again(self, work: Callable[[], T]) -> T:
        """A mount that fails is tried again; what is only full or wrong is not."""
        try:
            return patiently(work, folder_may_recover, self._patience_s)
        except OSError as error:
            if not folder_may_recover(error):
                raise
            hint = "look at the mount and the disk behind it"
            raise StorageUnavailable(f"the storage does not answer: {error}", hint=hint) from error

    def _aside(self) -> Path:
        folder = self._folder / ASIDE
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{os.getpid()}-{uuid.uuid4().hex}"


def _may_be_there(path: Path) -> bool:
    """False only where it is certain; a mount that fails tells what it has where it is used."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _checked(key: str) -> str:
    """Keys are made by the server; one that leaves the store is a bug, and stopped here all the same."""
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in key:
        raise ValueError(f"not a storage key: {key!r}")
    return str(path)


def _laid_out(aside: Path, names: list[str], copy_from: Path | None) -> list[StoredFile]:
    """The files of a tree that lies aside, on the disk; copied there from elsewhere if they were not moved."""
    if copy_from is not None:
        return [StoredFile(name, *copy_durably(copy_from / name, aside / name)) for name in names]
    files = [StoredFile.of(aside / name, name) for name in names]
    for name in names:
        fsync_path(aside / name)
    return files


def _finish(aside: Path, files: list[StoredFile]) -> None:
    """Write the manifest and flush the folders."""
    aside.mkdir(parents=True, exist_ok=True)
    manifest = aside / MANIFEST
    manifest.write_bytes(written(files))
    for folder in {aside, *((aside / file.name).parent for file in files)}:
        fsync_path(folder)
    fsync_path(manifest)


def _require_same(key: str, stored: StoredFile, found: tuple[int, str]) -> None:
    if found != (stored.bytes, stored.sha256):
        raise StorageCorrupt(f"{key}/{stored.name} differs from its manifest")
