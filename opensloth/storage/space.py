"""Whether there is room: nothing new is taken in while a disk is short, so that what runs can be kept."""

from __future__ import annotations

import shutil
from pathlib import Path

from opensloth.errors import InsufficientStorage
from opensloth.storage.errors import StorageUnavailable
from opensloth.storage.store import Storage


def shortage(storage: Storage, home: Path, least: int) -> str | None:
    """What is away or has less than `least` bytes free, in words; None if nothing, and for what is no disk of ours."""
    try:
        storage.require_there()
    except StorageUnavailable as error:
        return error.message
    for name, folder in (("the storage", storage.folder), ("OPENSLOTH_HOME", home.expanduser())):
        if folder is None or not folder.exists():
            continue
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if free < least:
            return f"{name} has {free / 2**30:.2f} GiB free, and {least / 2**30:.2f} GiB are kept free"
    return None


def require_room(storage: Storage, home: Path, least: int) -> None:
    """Raise InsufficientStorage while a disk is short, StorageUnavailable while the storage's is not there."""
    storage.require_there()
    short = shortage(storage, home, least)
    if short is not None:
        raise InsufficientStorage(
            f"the server's disk is short: {short}",
            hint="delete files and jobs that nobody needs; `opensloth gc --dry-run` shows an admin what can go",
        )
