"""A sign that a run gets on, between the records: what it is doing, beaten at each step into a small file."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

PULSE_NAME = "pulse"
STARTING, STEPS, EVALUATING, SAVING = "starting", "steps", "evaluating", "saving"
"""What a run does; only steps follow each other quickly, the others take their time."""
_WIDTH = 128
_EVERY_S = 0.2


class Pulse:
    """Rank 0 writes it; a beat costs nothing where another was a moment ago."""

    def __init__(self, run_dir: Path) -> None:
        self._file = os.open(run_dir / PULSE_NAME, os.O_WRONLY | os.O_CREAT, 0o644)
        self._beats = 0
        self._doing = ""
        self._written = 0.0

    def beat(self, doing: str, step_s: float = 0.0) -> None:
        """The run has got on; `step_s` is the median time of its latest steps, in seconds."""
        self._beats += 1
        now = time.monotonic()
        if doing == self._doing and now - self._written < _EVERY_S:
            return
        self._doing, self._written = doing, now
        text = json.dumps({"beats": self._beats, "doing": doing, "step_s": round(step_s, 6)})
        os.pwrite(self._file, text.ljust(_WIDTH).encode(), 0)


@dataclass(frozen=True)
class Beat:
    """What was read of a pulse."""

    beats: int = 0
    doing: str = STARTING
    step_s: float = 0.0


def read_pulse(run_dir: Path) -> Beat:
    """The newest beat; before the first one a run is starting."""
    try:
        found = json.loads((run_dir / PULSE_NAME).read_bytes())
        return Beat(int(found["beats"]), str(found["doing"]), float(found["step_s"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Beat()
