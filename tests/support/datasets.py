"""Files on disk, checked as an upload is."""

from __future__ import annotations

from pathlib import Path

from opensloth.datasets.check import Checker
from opensloth.datasets.readers import MAX_LINE_BYTES
from opensloth.datasets.report import FileCheck

PIECE_BYTES = 65_536
"""What a socket gives at once."""


def check_file(path: Path, max_line_bytes: int = MAX_LINE_BYTES) -> FileCheck:
    """The check of the file at `path`; raises as `Checker` does."""
    checker = Checker(path.name, max_line_bytes)
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            checker.feed(piece)
    return checker.finish(path)
