"""One trainer ahead of its job, seen from the worker: started, and either handed over to a job or ended."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from opensloth.training.standby import say
from worker.environment import trainer_environment

log = logging.getLogger(__name__)

MODULE = "opensloth.training.standby"
VISIBLE = "CUDA_VISIBLE_DEVICES"
IMPORTS_S = 900.0
"""One that has not done its imports by then hangs; it imports when nobody else needs the processor."""
PATIENCE_S = 120.0
"""How long a job waits at most for one that still imports, as long as that gets on."""
TAKE_S = 5.0
"""How long one that is ready may need to take its job, and one that imports may stand still."""
_NICE = 10
_CAP_SYS_NICE = 1 << 23
_PAUSE_S = 0.02


@dataclass
class Standby:
    """A process that waits for one job; `heartbeat` is the write end of the pipe without which it leaves."""

    engine: str
    environment: Mapping[str, str]
    """What it was started with beside the worker's own; its libraries have read some of it."""
    fingerprint: str
    """Of the code that it imports."""
    folder: Path
    process: subprocess.Popen[bytes]
    heartbeat: int
    control: socket.socket
    started: float = field(default_factory=time.monotonic)
    ready: bool = False
    taken: bool = False
    has_cuda: bool = True
    """Whether it has looked at its devices."""
    _rest: bytes = b""

    @classmethod
    def start(cls, module: str, engine: str, environment: Mapping[str, str], fingerprint: str, folder: Path) -> Standby:
        """Start one that imports what `module` needs; it works in `folder`, which is made, and prints beside it.

        It imports at a low priority where that can be taken back later.
        """
        folder.mkdir(parents=True)
        values = trainer_environment(os.environ, **environment)
        read_end, heartbeat = os.pipe()
        os.set_blocking(heartbeat, False)
        ours, its = socket.socketpair()
        try:
            with _log_of(folder).open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", MODULE, module, engine, str(its.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    process_group=0,
                    pass_fds=[read_end, its.fileno()],
                    env={**values, "OPENSLOTH_HEARTBEAT_FD": str(read_end)},
                )
        except BaseException:
            os.close(heartbeat)
            ours.close()
            raise
        finally:
            os.close(read_end)
            its.close()
        if may_lower_nice():
            _set_nice(process.pid, os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
        return cls(engine, dict(environment), fingerprint, folder, process, heartbeat, ours)

    def look(self) -> None:
        """Hear what it has said."""
        for message in self._messages():
            self.ready = self.ready or bool(message.get("ready"))
            self.taken = self.taken or bool(message.get("taken"))
            self.has_cuda = bool(message.get("cuda", self.has_cuda))

    @property
    def is_over(self) -> bool:
        """Whether it is of no use any more: gone, or hanging in its imports."""
        return self.process.poll() is not None or (not self.ready and time.monotonic() - self.started > IMPORTS_S)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a job with this environment may have it.

        Other devices may be shown to it as long as it has not looked at them; one that still imports may look.
        """
        names = self.environment.keys() | environment.keys()
        unlike = {name for name in names if self.environment.get(name) != environment.get(name)}
        return not unlike or (unlike == {VISIBLE} and self.ready and not self.has_cuda)

    def hand_over(
        self,
        run_dir: Path,
        environment: Mapping[str, str],
        secrets: Mapping[str, str],
        group: int,
        wait: Callable[[], bool],
        lease_until: Callable[[], float] | None = None,
    ) -> bool:
        """Make it a rank in the process group `group` (0: of its own); False if it did not take it, and it is gone.

        One that still imports is waited for: it is ahead of a new one. `wait` pauses a moment and says whether to go
        on. It hears of the lease before it begins.
        """
        order = {"run_dir": str(run_dir), "environment": dict(environment), "secrets": dict(secrets), "group": group}
        try:
            _set_nice(self.process.pid, os.getpriority(os.PRIO_PROCESS, 0))
            self.control.settimeout(TAKE_S)
            say(self.control, order)
            self._wait_until_taken(wait)
            if self.taken:
                if lease_until is not None:
                    beat(self.heartbeat, lease_until())
                say(self.control, {"go": True})
        except OSError as error:
            log.warning("standby %d cannot be reached: %s", self.process.pid, error)
            self.taken = False
        if not self.taken:
            log.warning("standby %d did not take its job; another process does", self.process.pid)
            self.end()
            return False
        self.control.close()
        _log_of(self.folder).unlink(missing_ok=True)
        return True

    def _wait_until_taken(self, wait: Callable[[], bool]) -> None:
        self.look()
        until = time.monotonic() + (TAKE_S if self.ready else PATIENCE_S)
        used_s, moved = 0.0, time.monotonic()
        while not self.taken and not self.is_over and time.monotonic() < until:
            was_ready, before_s, used_s = self.ready, used_s, _processor_s(self.process.pid)
            moved = moved if used_s == before_s else time.monotonic()
            if time.monotonic() - moved > TAKE_S or (not self._has_said(_PAUSE_S) and not was_ready and not wait()):
                return
            self.look()
            if self.ready and not was_ready:
                until = time.monotonic() + TAKE_S

    def end(self) -> None:
        """Kill it, unless it serves a job, and remove what it leaves."""
        if self.taken or self.heartbeat < 0:
            return
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        self.process.wait()
        self.control.close()
        os.close(self.heartbeat)
        self.heartbeat = -1  # it may be another file's from now on
        shutil.rmtree(self.folder, ignore_errors=True)
        _log_of(self.folder).unlink(missing_ok=True)

    def told(self) -> str:
        """The end of what it printed."""
        path = _log_of(self.folder)
        return path.read_text(errors="replace")[-2000:].strip() if path.exists() else ""

    def _has_said(self, timeout_s: float) -> bool:
        return bool(select.select([self.control], [], [], timeout_s)[0])

    def _messages(self) -> list[dict[str, Any]]:
        with contextlib.suppress(OSError):  # it died, which its process says too
            while self._has_said(0.0) and (chunk := self.control.recv(4096)):
                self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]


def beat(heartbeat: int, until: float) -> None:
    """Tell through the write end of a pipe until when the lease is good, by the monotonic clock."""
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        os.write(heartbeat, f"@{until:.3f}\n".encode())


def _log_of(folder: Path) -> Path:
    return folder.with_suffix(".log")


def may_lower_nice() -> bool:
    """Whether this process can take back a lower priority that it gave to another one."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        held = next(line for line in lines if line.startswith("CapEff:")).split()[1]
        return bool(int(held, 16) & _CAP_SYS_NICE)
    return False


def _processor_s(pid: int) -> float:
    """Seconds of processor that it has used."""
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _set_nice(pid: int, value: int) -> None:
    """The priority of each of its threads, if it can be set."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), value)
