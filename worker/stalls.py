"""Notices a run that does not get on although its processes live, and asks them where they stand."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from opensloth.events.records import Record
from opensloth.jobs.endings import End
from opensloth.training.pulse import STEPS, read_pulse
from opensloth.training.stacks import SIGNAL, stacks_path
from worker.processes import Ranks

STEPS_WITHOUT = 20
"""So many of its own median steps without one are a stall."""
OTHER_WORK = 6
"""Loading, evaluating and saving give no sign for longer than steps do: they may take this many times as long."""
ANSWER_S = 5.0
"""How long the ranks have to write their stacks."""
_MOST_CHARS = 32_000
_LONGEST_LOOK_S = 2.0


class StallWatch:
    """Counts the seconds in which nothing came of a run in `run_dir`."""

    def __init__(self, run_dir: Path, stall_s: float) -> None:
        self._run_dir = run_dir
        self._stall_s = stall_s
        self._seen: tuple[object, ...] = ()
        self._looked = time.monotonic()
        self.idle_s = 0.0

    def look(self, records_end: int, log_end: int) -> bool:
        """Whether the run is stalled; call it all the time.

        `records_end` and `log_end` are the sizes of what it has written. What it says in its log is a sign of life
        only until its steps begin: libraries go on talking about a peer that does not answer.
        """
        beat = read_pulse(self._run_dir)
        steps = beat.doing == STEPS
        seen = (beat, records_end, None if steps else log_end)
        now = time.monotonic()
        # A pause of this very process, or of the whole machine, is no time that the run had.
        self.idle_s += min(now - self._looked, _LONGEST_LOOK_S)
        self._looked = now
        if seen != self._seen:
            self._seen, self.idle_s = seen, 0.0
        limit = max(self._stall_s, STEPS_WITHOUT * beat.step_s) if steps else OTHER_WORK * self._stall_s
        return self.idle_s > limit

    def verdict(self, ranks: Ranks, pause: Callable[[], object]) -> tuple[End, Record]:
        """How a stalled attempt ends, and the event with the stacks of its ranks; `pause` waits a moment."""
        text = f"no progress for {self.idle_s:.0f} s while it was at: {self.doing}"
        stacks = stacks_of(ranks, self._run_dir, pause)
        joined = "\n".join(f"rank {rank}:\n{stack}" for rank, stack in stacks.items())
        told = Record(type="stalled", level="error", message=text, data={"stacks": stacks})
        return End("failed", "stalled", text, log_tail=joined), told

    @property
    def doing(self) -> str:
        """What the run was at."""
        return read_pulse(self._run_dir).doing


def stacks_of(ranks: Ranks, run_dir: Path, pause: Callable[[], object]) -> dict[str, str]:
    """The stacks of every rank that lives, by its number; `pause` waits a moment.

    A rank that does not answer is described by the state of its process.
    """
    ranks.signal(SIGNAL)
    alive = [rank for rank, status in enumerate(ranks.poll()) if status is None]
    deadline = time.monotonic() + ANSWER_S
    sizes: list[int] = []
    while time.monotonic() < deadline:
        pause()
        before, sizes = sizes, [_size(stacks_path(run_dir, rank)) for rank in alive]
        if all(sizes) and sizes == before:
            break
    return {str(rank): _read(stacks_path(run_dir, rank)) or _state(ranks, rank) for rank in alive}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(path: Path) -> str:
    return path.read_text(errors="replace")[:_MOST_CHARS] if path.exists() else ""


def _state(ranks: Ranks, rank: int) -> str:
    with contextlib.suppress(psutil.Error):
        return f"no answer; the process is {psutil.Process(ranks.processes[rank].pid).status()}"
    return "no answer; the process is gone"
