"""Whether code has changed since a process imported it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

import opensloth


def fingerprint(module: str) -> str:
    """Of our package, of `module` and of what is installed: by times of change, in a few milliseconds."""
    seen: list[tuple[str, int, int]] = []
    for folder in [*map(str, opensloth.__path__)]:
        _walk(folder, seen)
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.origin is not None:
        _note(spec.origin, seen)
    for entry in sys.path:
        if Path(entry).name in ("site-packages", "dist-packages"):
            _note(entry, seen)  # each installation makes or removes a folder there
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def _walk(folder: str, seen: list[tuple[str, int, int]]) -> None:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and entry.name != "__pycache__":
            _walk(entry.path, seen)
        elif entry.name.endswith(".py"):
            _note(entry.path, seen)


def _note(path: str, seen: list[tuple[str, int, int]]) -> None:
    found = os.stat(path)
    seen.append((path, found.st_mtime_ns, found.st_size))
