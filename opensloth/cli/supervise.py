"""Keeps parts running: starts them in order, restarts what dies, and stops them in order."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from opensloth.cli.home_lock import Record
from opensloth.cli.log_tail import LogTail
from opensloth.cli.processes import Part, Process

TICK_S = 0.1
FIRST_RESTART_S = 0.5
LONGEST_RESTART_S = 30.0
STEADY_S = 60.0
"""A part that ran this long before it died is restarted as if it had never died."""

Say = Callable[[str, str, str], None]
"""Called with a kind (`ready`, `note`, `problem`, `log`), the part's name and a text."""


class PartFailed(Exception):
    """A part ended, or did not get ready, in its first start."""

    def __init__(self, name: str, how: str, log: Path, tail: Sequence[str]) -> None:
        super().__init__(f"{name}: {how}")
        self.name = name
        self.how = how
        self.log = log
        self.tail = tail


class Kept:
    """One part and its present process, if it has one."""

    def __init__(self, part: Part, log: Path) -> None:
        self.part = part
        self.tail = LogTail(log)
        self.process: Process | None = None
        self.ready = False
        self.was_ready = False
        self.deaths = 0
        self.start_at = 0.0

    def restart_delay(self, ran_s: float) -> float:
        """Seconds to wait after a death; doubles with each that follows soon."""
        self.deaths = 1 if ran_s >= STEADY_S else self.deaths + 1
        return float(min(LONGEST_RESTART_S, FIRST_RESTART_S * 2 ** (self.deaths - 1)))


class Supervisor:
    """Runs on the main thread; `stop_asked` says how often the user has asked to stop."""

    def __init__(
        self, env: Mapping[str, str], home: Path, record: Record, say: Say, stop_asked: Callable[[], int]
    ) -> None:
        self._env = env
        self._home = home
        self._record = record
        self._say = say
        self._stop_asked = stop_asked
        self._kept: list[Kept] = []

    def start(self, parts: Sequence[Part]) -> bool:
        """Starts parts together and waits until all are ready; False if asked to stop before.

        Raises PartFailed if one ends or takes longer than its time.
        """
        for part in parts:
            kept = Kept(part, self._home / "logs" / f"{part.name}.log")
            self._kept.append(kept)
            self._launch(kept)
        while not all(kept.ready for kept in self._kept):
            if self._stop_asked():
                return False
            for kept in self._kept:
                self._check_first_start(kept)
            time.sleep(TICK_S / 2)
        return True

    def run(self) -> None:
        """Keeps everything running until asked to stop."""
        while not self._stop_asked():
            for kept in self._kept:
                self._keep(kept)
                self._show_log(kept)
            time.sleep(TICK_S)

    def stop(self) -> None:
        """Stops the parts, the last started first, each within its grace; at once if asked a second time."""
        enough = 2 if self._stop_asked() else 1
        for kept in reversed(self._kept):
            # What a part logs while it is being stopped (streams that are cut off) stays in its log.
            self._stop(kept, forced=lambda: self._stop_asked() >= enough)
        self._record.clear()

    def _launch(self, kept: Kept) -> None:
        kept.ready = False
        kept.process = Process(kept.part, kept.tail.path, self._env, self._home)
        with contextlib.suppress(OSError):  # on a full disk; it is for an `up` after one that was killed
            self._record.write({k.part.name: k.process.identity for k in self._kept if k.process is not None})

    def _check_first_start(self, kept: Kept) -> None:
        process = kept.process
        if kept.ready or process is None:
            return
        how = process.ended()
        waited = time.monotonic() - process.started
        if how is None and process.is_ready():
            self._is_ready(kept, waited)
        elif how is not None or waited > kept.part.ready_timeout_s:
            tail = process.log_since_start().splitlines()[-15:]
            raise PartFailed(kept.part.name, how or f"not ready after {waited:.0f} s", process.log, tail)

    def _keep(self, kept: Kept) -> None:
        process = kept.process
        if process is None:
            if time.monotonic() >= kept.start_at:
                self._launch_again(kept)
            return
        how = process.ended()
        ran_s = time.monotonic() - process.started
        if how is not None:
            delay = kept.restart_delay(ran_s)
            kept.process, kept.ready, kept.start_at = None, False, time.monotonic() + delay
            self._say("problem", kept.part.name, f"ended ({how}); restarting in {delay:.1f} s, see {process.log}")
        elif not kept.ready and process.is_ready():
            self._is_ready(kept, ran_s)

    def _launch_again(self, kept: Kept) -> None:
        try:
            self._launch(kept)
        except OSError as problem:
            delay = kept.restart_delay(0.0)
            kept.start_at = time.monotonic() + delay
            self._say("problem", kept.part.name, f"cannot be started ({problem}); again in {delay:.1f} s")

    def _is_ready(self, kept: Kept, seconds: float) -> None:
        kept.ready = True
        about = f"{kept.part.about}, again" if kept.was_ready else kept.part.about
        kept.was_ready = True
        self._say("ready", kept.part.name, f"{about}  ({seconds:.1f} s)")

    def _stop(self, kept: Kept, forced: Callable[[], bool]) -> None:
        process = kept.process
        if process is None or process.ended() is not None:
            return
        process.terminate()
        deadline = time.monotonic() + kept.part.grace_s
        while process.ended() is None:
            late = time.monotonic() > deadline
            if late or forced():
                why = f"did not end within {kept.part.grace_s:.0f} s and was killed" if late else "killed"
                process.kill()
                self._say("problem", kept.part.name, why)
                return
            time.sleep(TICK_S / 2)
        self._say("note", kept.part.name, f"stopped ({time.monotonic() - deadline + kept.part.grace_s:.1f} s)")

    def _show_log(self, kept: Kept) -> None:
        for line in kept.tail.problems():
            self._say("log", kept.part.name, line)
