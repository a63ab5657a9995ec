"""Durable moves and copies inside a directory store."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from opensloth.storage.manifest import digest


def fsync_path(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_durably(source: Path, target: Path) -> tuple[int, str]:
    """Copy a file and fsync it; returns its size in bytes and its SHA-256 in hex."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("wb") as writer:
        found = digest(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())
    return found


def move_into_place(source: Path, target: Path, aside: Path) -> None:
    """Rename `source` to `target`, whatever was there before; `aside` is a free name in the target's filesystem."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        target.rename(aside)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_durably(source, aside)
        os.replace(aside, target)
        source.unlink()
    fsync_path(target.parent)
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
