"""What this home has worked with: an empty place where that was is a disk that is not mounted, and no new beginning."""

from __future__ import annotations

import os
from pathlib import Path

NAME = "seen.txt"


class Seen:
    """The places, one a line of `OPENSLOTH_HOME/seen.txt`; whoever wants to begin anew removes the file."""

    def __init__(self, home: Path) -> None:
        self.file = home.expanduser() / NAME

    def __contains__(self, place: str) -> bool:
        try:
            return place in self.file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False

    def add(self, place: str) -> None:
        """Note a place; raises OSError."""
        if place in self:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.file.open("a", encoding="utf-8") as file:  # one write: another process may add its own
            file.write(f"{place}\n")
            file.flush()
            os.fsync(file.fileno())
