"""The records that a run leaves in `events.jsonl`, one JSON object a line, for the worker to read as they come."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Records:
    """Appends records; each is one write, so that a reader and a signal handler never meet half a line.

    Rank 0 writes; another rank only its failure. `redact` takes secrets out of a record.
    """

    def __init__(self, path: Path, *, only_failures: bool = False, redact: Callable[[Any], Any] | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._only_failures = only_failures
        self._redact = redact
        self.current_phase = "loading_model"
        self.timings: dict[str, float] = {}
        """Seconds of each part of the start."""
        self._marked = time.monotonic()

    def write(self, kind: str, message: str, /, *, level: str = "info", **data: Any) -> None:
        """One record of type `kind`; numbers that JSON does not know (NaN, infinity) become null."""
        if self._only_failures and kind != "failure":
            return
        record = {"time": time.time(), "type": kind, "level": level, "message": message, "data": _plain(data)}
        if self._redact is not None:
            record = self._redact(record)
        self._append(json.dumps(record, allow_nan=False).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        """The whole line or nothing of it: a disk that is full takes a part without a word."""
        written = os.write(self._file, line)
        if written == len(line):
            return
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise

    def phase(self, phase: str, message: str) -> None:
        """What the run does next: loading_model, preparing_data, training or saving."""
        self.current_phase = phase
        self.write("phase", message, phase=phase)

    def mark(self, part: str) -> None:
        """A part of the start is done; its seconds are those since the part before it."""
        now = time.monotonic()
        self.timings[f"{part}_s"] = round(now - self._marked, 3)
        self._marked = now

    def log(self, message: str, level: str = "info") -> None:
        """Anything worth saying to the job's owner."""
        self.write("log", message, level=level)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
