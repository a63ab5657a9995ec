"""One `up` for each home, and what an earlier one that was killed has left running."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from opensloth.cli.processes import Identity

STOP_ORDER = ("worker", "api", "valkey")


class HomeInUse(Exception):
    """Another `up` runs on this home; `pid` is its process, if known."""

    def __init__(self, pid: str) -> None:
        super().__init__(pid)
        self.pid = pid


class HomeLock:
    """Holds `$OPENSLOTH_HOME/up.lock` while `up` lives; the kernel lets go of it however `up` ends."""

    def __init__(self, home: Path) -> None:
        import fcntl

        self._file: IO[str] = (home / "up.lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            pid = self._file.read().strip()
            self._file.close()
            raise HomeInUse(pid) from None
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Lets another `up` use the home."""
        self._file.close()


class Record:
    """`$OPENSLOTH_HOME/up.json`: which processes run, for the `up` that comes after one that was killed."""

    def __init__(self, home: Path) -> None:
        self._path = home / "up.json"

    def write(self, parts: Mapping[str, Identity]) -> None:
        """Notes the processes that run now."""
        body = {name: {"pid": part.pid, "created": part.created} for name, part in parts.items()}
        aside = self._path.with_suffix(".new")
        aside.write_text(json.dumps({"pid": os.getpid(), "parts": body}), encoding="utf-8")
        aside.replace(self._path)

    def leftovers(self) -> dict[str, Identity]:
        """Noted processes that still run, in the order in which to stop them."""
        try:
            parts = json.loads(self._path.read_text(encoding="utf-8"))["parts"]
            noted = {name: Identity(int(part["pid"]), float(part["created"])) for name, part in parts.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        running = {name: part for name, part in noted.items() if part.is_running()}
        return {name: running[name] for name in STOP_ORDER if name in running}

    def clear(self) -> None:
        """Notes that nothing runs."""
        self._path.unlink(missing_ok=True)
