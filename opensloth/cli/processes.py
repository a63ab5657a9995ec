"""One child of `opensloth up`: started in a session of its own, logged to a file, stopped with its whole group."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

LOG_LIMIT_BYTES = 20 * 2**20
"""A log that is longer when its part starts is set aside as `<name>.log.1`."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Part:
    """A process that `up` keeps running; times in seconds."""

    name: str
    command: tuple[str, ...]
    is_ready: Callable[[Process], bool]
    """Asked again and again after the start; must answer within a second."""
    about: str
    """What to say beside its name once it is ready."""
    ready_timeout_s: float = 60.0
    grace_s: float = 10.0
    """From SIGTERM to SIGKILL."""


@dataclass(frozen=True)
class Identity:
    """A process that cannot be mistaken for another one with the same id; `created` in seconds since 1970."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this id now, None if there is none."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def is_running(self) -> bool:
        """Whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            # The kernel counts from boot, and the wall-clock time of boot shifts when the clock is set.
            same = abs(process.create_time() - self.created) < 2.0
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False


class Process:
    """A running part. Its group is itself and what it started without a session of its own."""

    def __init__(self, part: Part, log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self.part = part
        self.log = log
        self.started = time.monotonic()
        _set_aside(log)
        self.log_offset = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        self.identity = Identity.of(self._child.pid) or Identity(self._child.pid, time.time())

    @property
    def pid(self) -> int:
        """The process id, which is the id of the group and the session too."""
        return self._child.pid

    def is_ready(self) -> bool:
        """Whether the part does its work now."""
        return self.part.is_ready(self)

    def ended(self) -> str | None:
        """How the process ended, in words; None while it runs."""
        code = self._child.poll()
        if code is None:
            return None
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def terminate(self) -> None:
        """Asks the process to end."""
        if self._child.poll() is None:
            self._child.terminate()

    def kill(self) -> None:
        """Ends the process and its group now."""
        if self._child.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._child.wait()

    def log_since_start(self) -> str:
        """What the part has logged since it was started."""
        with self.log.open("rb") as file:
            file.seek(self.log_offset)
            return file.read().decode("utf-8", errors="replace")


def stop_leftover(identity: Identity, grace_s: float) -> None:
    """Stops a process of an earlier `up`: SIGTERM, then SIGKILL to its group; bounded by `grace_s`."""
    if not identity.is_running():
        return
    os.kill(identity.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while identity.is_running():
        if time.monotonic() > deadline:
            os.killpg(identity.pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def _set_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does first so that a killed `up` does not leave it: Linux sends it SIGTERM then.

    The kernel watches the thread that forked, so parts are started from the main thread only.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
