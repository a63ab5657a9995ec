"""Trees of an object store on this host, for programs that need files: fetched once, whole, told apart by content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from dataclasses import asdict
from pathlib import Path

from opensloth.storage.errors import StorageCorrupt
from opensloth.storage.store import Storage

UNUSED_S = 30 * 86_400.0
"""A tree that no job has used for so long makes room when another is fetched."""


def local_tree(storage: Storage, key: str, cache: Path) -> Path:
    """A folder with the tree `key`, to be read only: the store's own, or a copy in the folder `cache`.

    Raises StorageCorrupt where the tree is not complete.
    """
    files = storage.list_tree(key)
    if files is None:
        raise StorageCorrupt(f"{key} is not complete in storage")
    local = storage.local_path(key)
    if local is not None:
        return local
    content = json.dumps([asdict(file) for file in files]).encode()
    # A key may be given to another content after it was deleted.
    found = cache / hashlib.sha256(key.encode() + content).hexdigest()[:32]
    if not found.is_dir():
        _forget_unused(cache)
        aside = cache / f".{os.getpid()}-{uuid.uuid4().hex}"
        try:
            aside.mkdir(parents=True)
            storage.get_tree(key, aside)
            if not found.is_dir():  # else another job has fetched it meanwhile
                os.rename(aside, found)
        except OSError:
            if not found.is_dir():
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    os.utime(found)
    return found


def _forget_unused(cache: Path) -> None:
    """Whoever still has a file of it open keeps that."""
    for entry in cache.iterdir() if cache.is_dir() else ():
        if time.time() - entry.stat().st_mtime > UNUSED_S:
            shutil.rmtree(entry, ignore_errors=True)
