"""What in a part's log a person should see: warnings, errors and how a traceback ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

MAX_LINES = 10
"""A part that logs more problems than this in one look is summed up."""
_PROBLEM = re.compile(
    r"\b(WARNING|WARN|ERROR|CRITICAL|FATAL)\b|^(\w+\.)*\w*(Error|Exception|Interrupt|Exit)\b(:|$)|^# WARN"
)
# Valkey's advice for servers that keep data on disk; ours keeps none.
_HARMLESS = re.compile(r"overcommit_memory|Transparent Huge Pages|somaxconn|no config file specified")
_MAX_READ = 1 << 20


class LogTail:
    """Follows a log from its present end, through rotation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._partial = b""

    def problems(self) -> Iterator[str]:
        """New lines that tell of problems, each one once in a row."""
        shown, previous, more = 0, "", 0
        for line in self._new_lines():
            if not _PROBLEM.search(line) or _HARMLESS.search(line) or line == previous:
                continue
            previous = line
            if shown < MAX_LINES:
                shown += 1
                yield line
            else:
                more += 1
        if more:
            yield f"... and {more} more problems in {self.path}"

    def _new_lines(self) -> list[str]:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return []
        if size == self._offset:
            return []
        if size < self._offset:
            self._offset, self._partial = 0, b""
        with self.path.open("rb") as file:
            file.seek(max(self._offset, size - _MAX_READ))
            data = self._partial + file.read(_MAX_READ)
            self._offset = file.tell()
        *lines, self._partial = data.split(b"\n")
        return [line.decode("utf-8", errors="replace").rstrip() for line in lines]
