"""A directory store, perhaps on a file server: what is written is on the disk before it has its name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from opensloth.storage.errors import StorageUnavailable, folder_may_recover, patiently
from opensloth.storage.local import copy_durably, fsync_path, move_into_place
from opensloth.storage.manifest import MANIFEST, StoredFile, Usage, digest, written

T = TypeVar("T")
ASIDE = ".aside"
"""Where trees and files are written before they are renamed."""
MARK = ".opensloth"
"""A file that tells a directory store from the empty place where its disk would be mounted."""


class FolderStore:
    """Files below `root`, which is made, unless it is `known` to have been there."""

    def __init__(self, root: Path, patience_s: float, *, known: bool) -> None:
        self.root = root
        self._patience_s = patience_s
        if not known:
            root.mkdir(parents=True, exist_ok=True)
        self._marked = known or (root / MARK).exists()

    def mark(self) -> None:
        """Leave the mark where there is none; raises OSError."""
        if not self._marked:
            (self.root / MARK).touch()
            self._marked = True

    def require_there(self) -> None:
        """Raise StorageUnavailable where the mark is gone."""
        if self._marked and not _may_be_there(self.root / MARK):
            raise StorageUnavailable(
                f"the storage {self.root} is not there",
                hint=f"mount its disk; to go on with what is there instead, make the file {MARK} in it",
            )

    def path(self, key: str) -> Path:
        """Where the key lies."""
        self.require_there()
        return self.root / key

    def aside(self) -> Path:
        """The folder of what is not in its place yet."""
        folder = self.path(ASIDE)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def ping(self) -> None:
        """Raise StorageUnavailable unless the folder can be read and written."""
        self.require_there()
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise StorageUnavailable(f"{self.root} cannot be read and written", hint="look at its mount and owner")

    def put_file(self, local: Path, key: str) -> None:
        """Move `local` into its place."""
        self._again(lambda: fsync_path(local))
        self._place(local, key)

    def put_bytes(self, key: str, content: bytes) -> None:
        """Write aside, then rename."""
        aside = self._free()

        def write() -> None:
            aside.write_bytes(content)
            fsync_path(aside)

        self._again(write)
        self._place(aside, key)

    def put_tree(self, local: Path, key: str, names: list[str], *, move: bool) -> list[StoredFile]:
        """Move or copy aside, add the manifest, then rename."""
        aside = self._free()
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

    def open(self, key: str) -> BinaryIO:
        """Open for reading."""
        return self._again(lambda: self.path(key).open("rb"))

    def get_bytes(self, key: str) -> bytes:
        """A small file's content."""
        return self._again(lambda: self.path(key).read_bytes())

    def get_file(self, key: str, local: Path) -> tuple[int, str]:
        """Copy, and digest meanwhile."""

        def copy() -> tuple[int, str]:
            with self.path(key).open("rb") as source, local.open("wb") as sink:
                return digest(source, sink)

        return self._again(copy)  # a mount may fail in the middle as well

    def size(self, key: str) -> int:
        """Size in bytes."""
        return self.path(key).stat().st_size

    def exists(self, key: str) -> bool:
        """Whether a file or a folder is there."""
        return self.path(key).exists()

    def usage(self, key: str) -> Usage:
        """What lies at or below the key."""
        path = self.path(key)
        size, newest = 0, 0.0
        for entry in [path, *(path.rglob("*") if path.is_dir() else [])]:
            with contextlib.suppress(FileNotFoundError):  # it is being removed while we look
                stat = entry.stat()
                size += 0 if entry.is_dir() else stat.st_size
                newest = max(newest, stat.st_mtime)
        return Usage(size, newest)

    def names(self, key: str) -> list[str]:
        """The names one level below the key, sorted."""
        path = self.path(key)
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def sizes(self, key: str) -> dict[str, int]:
        """Bytes of every file below the key, by its path below it, but for what lies aside."""
        path, found = self.path(key), {}
        tops = [path] if key else [entry for entry in path.iterdir() if entry.is_dir() and entry.name != ASIDE]
        for entry in sorted(inner for top in tops for inner in top.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # it is being removed while we look
                if entry.is_file():
                    found[entry.relative_to(path).as_posix()] = entry.stat().st_size
        return found

    def delete(self, key: str) -> None:
        """Rename a tree away at once, then remove it."""
        path = self.path(key)
        # The same name each time: what a killed process left of it, the next one to delete the key removes.
        doomed = self.root / ASIDE / f"deleted-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
        shutil.rmtree(doomed, ignore_errors=True)
        if path.is_dir():
            doomed.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process deletes it at the same time
                path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def sweep(self, older_than_s: float) -> None:
        """Remove what lies aside for long."""
        folder = self.path(ASIDE)
        if not folder.is_dir():
            return
        for entry in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # its writer has just put it into its place
                if time.time() - entry.stat().st_mtime > older_than_s:
                    if entry.is_dir():
                        shutil.rmtree(entry, ignore_errors=True)
                    else:
                        entry.unlink()

    def _place(self, source: Path, key: str) -> None:
        """Rename what lies on the disk to its key."""
        target, free = self.path(key), self._free()

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

    def _free(self) -> Path:
        return self.aside() / f"{os.getpid()}-{uuid.uuid4().hex}"


def _may_be_there(path: Path) -> bool:
    """False only where it is certain; a mount that fails tells what it has where it is used."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


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
