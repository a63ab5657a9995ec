"""What trainers compile is kept for the next ones: kernels of Triton and graphs of Inductor, bounded in size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from opensloth.settings import Settings

_FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""Both keep an entry under the hash of its source, versions and GPU, and write it aside first: processes may share."""


def compile_caches(settings: Settings, given: Mapping[str, str]) -> dict[str, str]:
    """The variables that tell trainers where; what the worker's own environment says comes first."""
    folder = _folder(settings)
    return {name: given.get(name) or str(folder / part) for name, part in _FOLDERS.items()}


def trim_compiled(settings: Settings) -> int:
    """Remove the entries that are oldest until the rest is within `compiled_cache_bytes`; returns bytes removed.

    Call it while no trainer runs: a process expects what it has found once to stay.
    """
    entries = []
    for part in _FOLDERS.values():
        for entry in os.scandir(_folder(settings) / part) if (_folder(settings) / part).is_dir() else ():
            entries.append((entry.stat(follow_symlinks=False).st_mtime, entry.path, _size(Path(entry.path))))
    over = sum(size for _, _, size in entries) - settings.compiled_cache_bytes
    removed = 0
    for _, path, size in sorted(entries):
        if removed >= over:
            break
        shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else Path(path).unlink(missing_ok=True)
        removed += size
    return removed


def _folder(settings: Settings) -> Path:
    return settings.home.expanduser() / "cache" / "compiled"


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
