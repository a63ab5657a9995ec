"""Ending every process beneath another one, daemons and sessions of their own included."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

import psutil

_PASS_S = 0.02
_LIMIT_S = 10.0
"""A process that SIGKILL has not ended by then hangs in the kernel, or is not ours to end."""


def descendants(pid: int) -> list[psutil.Process]:
    """The live processes beneath `pid`; one that only waits to be reaped is not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process for process in psutil.Process(pid).children(recursive=True) if lives(process)]
    return []


def signal_descendants(pid: int, number: int) -> None:
    """Send a signal to each."""
    for process in descendants(pid):
        _send(process, number)


def kill_descendants(pid: int, reap: Callable[[], None] = lambda: None) -> bool:
    """SIGKILL until nothing is left beneath `pid`; False if something could not be ended.

    All of them lie beneath it only while `pid` is their subreaper and lives. They are stopped before they are killed,
    so that none can start another one in between. `reap` is called after each pass.
    """
    deadline = time.monotonic() + _LIMIT_S
    stopped: set[int] = set()
    while found := descendants(pid):
        if time.monotonic() > deadline:
            return False
        fresh = [process for process in found if process.pid not in stopped]
        for process in fresh:
            _send(process, signal.SIGSTOP)
            stopped.add(process.pid)
        if not fresh:
            for process in found:
                _send(process, signal.SIGKILL)
            reap()
            time.sleep(_PASS_S)
    reap()
    return True


def kill_marked(name: str, value: str) -> None:
    """SIGKILL to each process that was started with this variable in its environment, until there is none.

    For what is beneath nobody of ours any more: a daemon, or what lost its parent.
    """
    deadline = time.monotonic() + _LIMIT_S
    while found := [process for process in psutil.process_iter() if _has(process, name, value)]:
        if time.monotonic() > deadline:
            return
        for process in found:
            _send(process, signal.SIGKILL)
        psutil.wait_procs(found, timeout=_PASS_S)


def _has(process: psutil.Process, name: str, value: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return bool(process.pid != os.getpid() and process.environ().get(name) == value and lives(process))
    return False


def lives(process: psutil.Process) -> bool:
    """Whether a process has not ended; one that only waits to be reaped has."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
    return False


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
        os.kill(process.pid, number)
