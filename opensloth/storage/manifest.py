"""What lies under a key: a tree's list of its files, with the size and SHA-256 of each, and how much it is in all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class StoredFile:
    """One file of a tree: its path inside the tree, its size in bytes and its SHA-256 in hex."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path, name: str) -> StoredFile:
        """The file at `path` as `name` of a tree."""
        with path.open("rb") as file:
            return cls(name, *digest(file))


@dataclass(frozen=True)
class Usage:
    """Bytes under a key, and when the newest of it was written, in seconds since 1970 (0 if there is nothing)."""

    bytes: int
    newest: float


def written(files: Sequence[StoredFile]) -> bytes:
    """The manifest's content."""
    return json.dumps({"files": [asdict(file) for file in files]}, indent=1).encode()


def listed(content: bytes) -> list[StoredFile]:
    """The files that a manifest lists; raises ValueError, KeyError or TypeError for what is none."""
    return [StoredFile(entry["name"], entry["bytes"], entry["sha256"]) for entry in json.loads(content)["files"]]


def digest(source: IO[bytes], sink: IO[bytes] | None = None) -> tuple[int, str]:
    """Size in bytes and SHA-256 in hex of what is left of `source`, which is copied to `sink` meanwhile."""
    found, size = hashlib.sha256(), 0
    while chunk := source.read(1 << 20):
        found.update(chunk)
        size += len(chunk)
        if sink is not None:
            sink.write(chunk)
    return size, found.hexdigest()
