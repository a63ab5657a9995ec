"""A backup as a folder, below a URL or as one tar file; complete once its manifest is there, which comes last."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import IO, Protocol

from opensloth.backup.errors import BackupUnusable
from opensloth.errors import Conflict, InvalidInput
from opensloth.storage import Storage, StorageCorrupt, StoredFile
from opensloth.storage.folder import ASIDE
from opensloth.storage.manifest import MANIFEST, digest, listed, written


class Writer(Protocol):
    """Takes files by name; nothing is a backup before `finish`."""

    def add(self, local: Path, name: str) -> None:
        """Take a file, which goes from where it is."""

    def finish(self) -> None:
        """Make it a backup."""


class Reader(Protocol):
    """A backup that is complete and undamaged, which is looked at when it is opened."""

    files: list[StoredFile]

    def read(self, name: str) -> bytes:
        """A small file."""

    def get(self, name: str, local: Path) -> None:
        """Copy a file."""


def writer_for(target: str) -> Writer:
    """For a path that ends in .tar, another path, or a URL; raises Conflict where something is there already."""
    if not target.strip():
        raise BackupUnusable("name a folder, a file that ends in .tar, or a URL for the backup")
    if target.endswith(".tar") and "://" not in target:
        return _TarWriter(Path(target).expanduser())
    storage, name = _place(target)
    if storage.exists(name):
        raise Conflict(f"{target} is there already", hint="name another place; backups are never overwritten")
    return _StoreWriter(storage, name)


def reader_for(source: str) -> Reader:
    """Raises BackupUnusable for what is no backup, not complete or damaged."""
    if "://" not in source and Path(source).expanduser().is_file():
        return _TarReader(Path(source).expanduser())
    if "://" not in source and not Path(source).expanduser().is_dir():
        raise BackupUnusable(f"there is no backup {source}")
    storage, name = _place(source)
    return _StoreReader(storage, name)


def _place(target: str) -> tuple[Storage, str]:
    """The store that holds a backup, and its name there."""
    if "://" in target:
        parent, _, name = target.rstrip("/").rpartition("/")
        if parent.endswith(":/"):
            raise BackupUnusable(f"{target} is a whole bucket; name a place in it, such as {target.rstrip('/')}/monday")
        try:
            return Storage(parent), name
        except InvalidInput as error:  # which speaks of the storage's own setting
            raise BackupUnusable(f"{target} {error.fields[0].message}") from error
    path = Path(target).expanduser().absolute()
    return Storage(str(path.parent)), path.name


class _StoreWriter:
    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._files: list[StoredFile] = []

    def add(self, local: Path, name: str) -> None:
        local.chmod(0o600)
        self._files.append(StoredFile.of(local, name))
        self._storage.put_file(local, f"{self._name}/{name}")

    def finish(self) -> None:
        self._storage.put_bytes(f"{self._name}/{MANIFEST}", written(self._files))
        if self._storage.folder is not None:
            (self._storage.folder / self._name).chmod(0o700)
            with contextlib.suppress(OSError):
                (self._storage.folder / ASIDE).rmdir()


class _TarWriter:
    def __init__(self, path: Path) -> None:
        if path.exists():
            raise Conflict(f"{path} is there already", hint="name another place; backups are never overwritten")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._aside = path, path.with_name(f".{path.name}.part")
        self._raw = os.fdopen(os.open(self._aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        self._tar = tarfile.TarFile(fileobj=self._raw, mode="w", format=tarfile.PAX_FORMAT)
        self._files: list[StoredFile] = []

    def add(self, local: Path, name: str) -> None:
        described = StoredFile.of(local, name)
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = described.bytes, 0o600
        with local.open("rb") as file:
            self._tar.addfile(entry, file)
        self._files.append(described)
        local.unlink()

    def finish(self) -> None:
        content = written(self._files)
        entry = tarfile.TarInfo(MANIFEST)
        entry.size, entry.mode = len(content), 0o600
        self._tar.addfile(entry, io.BytesIO(content))
        self._tar.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        os.replace(self._aside, self._path)


class _StoreReader:
    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        try:
            self.files = storage.verify_tree(name)
        except StorageCorrupt as error:
            raise BackupUnusable(f"the backup cannot be used: {error.message}") from error

    def read(self, name: str) -> bytes:
        with self._storage.open(f"{self._name}/{name}") as file:
            return file.read()

    def get(self, name: str, local: Path) -> None:
        self._storage.get_file(f"{self._name}/{name}", local)


class _TarReader:
    def __init__(self, path: Path) -> None:
        try:
            self._tar = tarfile.TarFile(path)
            self._members = {member.name: member for member in self._tar if member.isreg()}
            self.files = listed(self._content(MANIFEST).read())
            for file in self.files:
                if digest(self._content(file.name)) != (file.bytes, file.sha256):
                    raise BackupUnusable(f"the backup cannot be used: {file.name} is damaged")
        except (tarfile.TarError, KeyError, TypeError, ValueError, EOFError) as error:
            raise BackupUnusable(f"{path} is no complete backup: {error}") from error

    def _content(self, name: str) -> IO[bytes]:
        found = self._tar.extractfile(self._members[name])
        assert found is not None
        return found

    def read(self, name: str) -> bytes:
        return self._content(name).read()

    def get(self, name: str, local: Path) -> None:
        with local.open("wb") as file:
            shutil.copyfileobj(self._content(name), file, 1 << 20)
