"""Ends this process when its worker is gone or has lost its lease, whatever the main thread is doing."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time

FD_VARIABLE = "OPENSLOTH_HEARTBEAT_FD"
EXIT_CODE = 75
MARGIN_S = 5.0


def start_watchdog() -> threading.Thread | None:
    """Watches the pipe whose descriptor OPENSLOTH_HEARTBEAT_FD names; None (run by hand) watches nothing.

    Each line in the pipe says until when the worker has its lease. When the pipe ends, or no line has come until 5
    seconds (at most a third of what was left) before the lease ends, the process leaves at once.
    """
    number = os.environ.pop(FD_VARIABLE, None)
    if number is None:
        return None
    descriptor = int(number)
    os.set_inheritable(descriptor, False)
    thread = threading.Thread(target=_watch, args=(descriptor,), name="watchdog", daemon=True)
    thread.start()
    return thread


def _watch(descriptor: int) -> None:
    deadline: float | None = None
    rest = b""
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([descriptor], [], [], wait)[0]:
            _leave("the worker has not renewed its lease")
        chunk = os.read(descriptor, 4096)
        if not chunk:
            _leave("the worker is gone")
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            deadline = leave_at(lines[-1])


def leave_at(line: bytes) -> float:
    """When to leave, by the monotonic clock of the host: `@` and the moment at which the lease ends.

    A moment and no span, as the line may have waited in the pipe: a process that has just started, on a busy machine,
    reads it seconds later. A worker from before an upgrade tells the seconds that are left.
    """
    now = time.monotonic()
    until = float(line[1:]) if line.startswith(b"@") else now + float(line)
    return until - min(MARGIN_S, max(0.0, until - now) / 3)


def _leave(why: str) -> None:
    # os.write and os._exit need no lock that the main thread may hold.
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"watchdog: {why}, leaving\n".encode())
    if os.getpgrp() == os.getpid():
        _end_group()
    os._exit(EXIT_CODE)


def _end_group() -> None:
    """The first rank leads the group of all of them and of what they started: data loaders, servers of rewards."""
    own = os.getpid()
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdecimal() and int(name) != own:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(int(name)) == own:
                    os.kill(int(name), signal.SIGKILL)
