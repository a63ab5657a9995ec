"""One interface over a shared directory or any fsspec URL; a tree in it is complete or not there.

A tree is a folder with a `MANIFEST.json` that lists every file with its size and SHA-256. In a directory it is written
aside, fsynced and renamed; in an object store the manifest is written last, once every file is there in its full
size. Whoever finds no manifest finds no tree.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from opensloth.storage.errors import PATIENCE_S, StorageCorrupt
from opensloth.storage.folder import FolderStore
from opensloth.storage.manifest import MANIFEST, StoredFile, Usage, digest, listed
from opensloth.storage.objects import ObjectStore


class Store(Protocol):
    """What a kind of storage does, by keys that were checked; the empty one means all of it.

    Raises FileNotFoundError for what is not there, StorageUnavailable for a store that does not answer.
    """

    def ping(self) -> None:
        """Raise StorageUnavailable or OSError unless the store answers."""

    def put_file(self, local: Path, key: str) -> None:
        """Store `local`, whole or not at all, and remove it."""

    def put_bytes(self, key: str, content: bytes) -> None:
        """Store a small file, whole or not at all."""

    def put_tree(self, local: Path, key: str, names: list[str], *, move: bool) -> list[StoredFile]:
        """Store the files `names` of the folder `local` with their manifest; `move` allows to take them away."""

    def open(self, key: str) -> BinaryIO:
        """Open for reading."""

    def get_bytes(self, key: str) -> bytes:
        """A small file's content."""

    def get_file(self, key: str, local: Path) -> tuple[int, str]:
        """Copy to a local file; returns the size and SHA-256 of what came."""

    def size(self, key: str) -> int:
        """Size in bytes."""

    def exists(self, key: str) -> bool:
        """Whether a file or a folder is there."""

    def usage(self, key: str) -> Usage:
        """What lies at or below the key."""

    def names(self, key: str) -> list[str]:
        """The names one level below the key, sorted."""

    def sizes(self, key: str) -> dict[str, int]:
        """Bytes of every file below the key, by its path below it, sorted."""

    def delete(self, key: str) -> None:
        """Remove a file or a tree; the manifest goes first."""

    def sweep(self, older_than_s: float) -> None:
        """Remove what killed writers left long ago."""


class Storage:
    """The store behind `OPENSLOTH_STORAGE_URL`; keys are relative POSIX paths made by the server.

    What does not answer is tried again for `patience_s` seconds; then it is StorageUnavailable. So is a directory that
    had its mark, or is `known` to have had it, while that is gone.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S, *, known: bool = False) -> None:
        self.url = url
        self._directory: FolderStore | None = None
        self._store: Store
        if "://" not in url or url.startswith("file://"):
            root = Path(url.removeprefix("file://")).expanduser().absolute()
            self._store = self._directory = FolderStore(root, patience_s, known=known)
        else:
            self._store = ObjectStore(url, patience_s)

    @property
    def folder(self) -> Path | None:
        """The directory behind a store that is one."""
        return None if self._directory is None else self._directory.root

    def mark(self) -> None:
        """Leave the mark in a directory store that has none; raises OSError."""
        if self._directory is not None:
            self._directory.mark()

    def require_there(self) -> None:
        """Raise StorageUnavailable where the disk of a directory store is not mounted."""
        if self._directory is not None:
            self._directory.require_there()

    def ping(self) -> None:
        """Raise StorageUnavailable or OSError unless the store answers."""
        self._store.ping()

    # Single files

    def put_file(self, local: Path, key: str) -> None:
        """Store `local` under `key`, whole or not at all, and remove it; moves it inside one filesystem."""
        self._store.put_file(local, _checked(key))

    def put_bytes(self, key: str, content: bytes) -> None:
        """Store a small file, whole or not at all."""
        self._store.put_bytes(_checked(key), content)

    def open(self, key: str) -> BinaryIO:
        """Open for reading; raises FileNotFoundError."""
        return self._store.open(_checked(key))

    def get_file(self, key: str, local: Path) -> tuple[int, str]:
        """Copy a file; returns the size and SHA-256 of what came. Raises FileNotFoundError."""
        return self._store.get_file(_checked(key), local)

    def size(self, key: str) -> int:
        """Size in bytes; raises FileNotFoundError."""
        return self._store.size(_checked(key))

    def exists(self, key: str) -> bool:
        """Whether a file or a folder is there (a tree is complete only if `list_tree` says so)."""
        return self._store.exists(_checked(key))

    def local_path(self, key: str) -> Path | None:
        """The path behind `key` where the store is a directory, to be read only; else None."""
        return None if self._directory is None else self._directory.path(_checked(key))

    def scratch(self, fallback: Path) -> Path:
        """A folder from which `put_file` and `put_tree` can move instead of copy; `fallback` for an object store."""
        if self._directory is not None:
            return self._directory.aside()
        fallback.mkdir(parents=True, exist_ok=True)
        return fallback

    # Whatever lies under a key

    def delete(self, key: str) -> None:
        """Remove a file or a tree; the manifest goes first, so that no half tree looks complete."""
        self._store.delete(_checked(key))

    def usage(self, key: str) -> Usage:
        """What lies under `key`, a file or a folder with all in it; nothing, if there is nothing."""
        return self._store.usage(_checked(key))

    def list_keys(self, prefix: str) -> list[str]:
        """The names one level below `prefix`, sorted."""
        return self._store.names(_checked(prefix))

    def list_files(self, key: str) -> dict[str, int]:
        """Bytes of every file below `key`, by its path below it."""
        return self._store.sizes(_checked(key))

    def list_all(self) -> dict[str, int]:
        """Bytes of every file by its key, but for what lies aside."""
        return self._store.sizes("")

    def sweep(self, older_than_s: float = 86_400.0) -> None:
        """Remove what killed writers left aside long ago."""
        self._store.sweep(older_than_s)

    # Trees

    def put_tree(self, local: Path, key: str, *, move: bool = False) -> list[StoredFile]:
        """Store the folder `local` as the tree `key`, replacing an older one; `move` allows to take the files away."""
        names = sorted(p.relative_to(local).as_posix() for p in local.rglob("*") if p.is_file() and p.name != MANIFEST)
        return self._store.put_tree(local, _checked(key), names, move=move)

    def list_tree(self, key: str) -> list[StoredFile] | None:
        """The files of a complete tree from its manifest; None if the tree is not there."""
        try:
            return listed(self._store.get_bytes(_checked(f"{key}/{MANIFEST}")))
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

    def _require_tree(self, key: str) -> list[StoredFile]:
        files = self.list_tree(key)
        if files is None:
            raise StorageCorrupt(f"{key} is not complete: it has no {MANIFEST}")
        return files


def _checked(key: str) -> str:
    """Keys are made by the server; one that leaves the store is a bug, and stopped here all the same."""
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in key:
        raise ValueError(f"not a storage key: {key!r}")
    return str(path)


def _require_same(key: str, stored: StoredFile, found: tuple[int, str]) -> None:
    if found != (stored.bytes, stored.sha256):
        raise StorageCorrupt(f"{key}/{stored.name} differs from its manifest")
