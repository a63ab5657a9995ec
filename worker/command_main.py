"""The guard of one leased command: `python -m worker.command_main RUN_DIR` starts it and ends all that it started.

It is the subreaper of the command: whatever the command starts, sessions of their own and daemons included, lies
beneath the guard, and is ended with it. The guard leaves when the worker is gone or does not renew the lease.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from opensloth.training.records import Records
from opensloth.training.run_spec import EVENTS_NAME, FILE_NAME
from opensloth.training.watchdog import EXIT_CODE as EXIT_LOST
from opensloth.training.watchdog import FD_VARIABLE, leave_at
from worker.command_run import CommandRun
from worker.descendants import kill_descendants, signal_descendants
from worker.idleness import Idleness

EXIT_STOPPED, EXIT_FAILED = 10, 20
MOST_OUTPUT_BYTES = 256 << 20
"""Of a command's output the log keeps so much; what comes after is read and dropped."""
_TICK_S = 0.1
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


class Guard:
    """Runs the command in a session of its own, with its output in a pipe."""

    def __init__(self, run: CommandRun, records: Records, heartbeat: int) -> None:
        self._run = run
        self._records = records
        self._heartbeat = heartbeat
        self._beats = b""
        self._deadline: float | None = None
        self._written = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        self._stop_asked = self._stop_sent = False
        self._output, self._pipe = os.pipe()
        os.set_blocking(self._output, False)
        self._idleness = Idleness(run.idle_limit_s, run.devices) if run.idle_limit_s else None

    def start(self) -> None:
        """Start the command; raises OSError or subprocess.SubprocessError where it cannot be."""
        run = self._run
        self._process = subprocess.Popen(
            run.command,
            stdin=subprocess.DEVNULL,
            stdout=self._pipe,
            stderr=self._pipe,
            env=run.environment,
            user=run.uid,
            group=run.gid,
            extra_groups=run.groups if run.uid is not None else None,
            start_new_session=True,
            preexec_fn=self._become,  # no thread runs yet in this process
        )
        os.close(self._pipe)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._records.write("started", "the command has begun")

    def _become(self) -> None:
        # As the account, so that a folder which that may not enter is refused; and it is gone if the guard is killed.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.chdir(self._run.directory)

    def _on_sigterm(self, _number: int, _frame: object) -> None:
        self._stop_asked = True

    def follow(self) -> int:
        """See the command to its end; returns the guard's exit status."""
        idle = False
        while self._status is None:
            fds = [fd for fd in (self._heartbeat, self._output) if fd >= 0]
            ready = select.select(fds, [], [], _TICK_S)[0]
            if self._heartbeat in ready:
                self._read_heartbeat()
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._leave("the worker has not renewed its lease")
            if self._output in ready:
                self._copy()
            self._reap()
            if self._stop_asked and not self._stop_sent:
                self._stop_sent = True
                signal_descendants(os.getpid(), signal.SIGTERM)
            if self._idleness is not None and self._idleness.is_over(os.getpid(), self._written):
                idle = True
                self._end_all()
        self._end_all()
        while self._output >= 0 and select.select([self._output], [], [], 0)[0]:
            self._copy()
        return self._verdict(idle)

    def _verdict(self, idle: bool) -> int:
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        if idle:
            limit = self._run.idle_limit_s or 0
            self._records.write("failure", "failure", code="idle", message=f"it did nothing for {limit:.0f} s")
            return EXIT_FAILED
        if self._stop_asked:
            self._records.write("stopped", "the command was ended", complete=False)
            return EXIT_STOPPED
        if code == 0:
            self._records.write("result", "the command has ended", exit_code=0, is_model=False, artifacts=[])
            return 0
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return fail(self._records, f"the command ended with {how}", 128 - code if code < 0 else code)

    def _read_heartbeat(self) -> None:
        chunk = os.read(self._heartbeat, 4096)
        if not chunk:
            self._leave("the worker is gone")
        *lines, self._beats = (self._beats + chunk).split(b"\n")
        if lines:
            self._deadline = leave_at(lines[-1])

    def _copy(self) -> None:
        """From the pipe to the log. What still holds the pipe open after the end does not matter any more."""
        try:
            data = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            os.close(self._output)
            self._output = -1
            return
        room = MOST_OUTPUT_BYTES - self._written
        self._written += len(data)
        if room <= 0:
            return
        _write(data[:room])
        if len(data) >= room:
            _write(b"\n[the log ends here: it is full]\n")

    def _reap(self) -> None:
        """Collect whoever has ended: the command, and what was handed to its guard."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._process is not None and pid == self._process.pid:
                self._status = status

    def _end_all(self) -> None:
        if not kill_descendants(os.getpid(), self._reap):
            _write(b"\n[some of its processes could not be ended]\n")

    def _leave(self, why: str) -> NoReturn:
        self._end_all()
        _write(f"\n[{why}; the command was ended]\n".encode())
        os._exit(EXIT_LOST)


def fail(records: Records, message: str, exit_code: int) -> int:
    """Tell that the command failed; returns the guard's exit status."""
    records.write("failure", "failure", code="command_failed", message=message, exit_code=exit_code)
    return EXIT_FAILED


def _refuse(records: Records, message: str, exit_code: int) -> int:
    """The same for a command that could not be started; nothing else is in its log, where its owner looks."""
    _write(f"[{message}]\n".encode())
    return fail(records, message, exit_code)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def main() -> int:
    """Run the command of the folder that is named on the command line."""
    run_dir = Path(sys.argv[1])
    run = CommandRun.model_validate_json((run_dir / FILE_NAME).read_bytes())
    records = Records(run_dir / EVENTS_NAME)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    heartbeat = int(os.environ.pop(FD_VARIABLE))
    os.set_inheritable(heartbeat, False)
    guard = Guard(run, records, heartbeat)
    program = run.command[0]
    try:
        guard.start()
    except FileNotFoundError:
        return _refuse(records, f"there is no program {program!r} in {run.environment['PATH']}", 127)
    except OSError as error:
        return _refuse(records, f"{program!r} cannot be run: {error.strerror}", 126)
    except subprocess.SubprocessError:
        return _refuse(records, f"the account may not enter the folder {run.directory}", 126)
    return guard.follow()


if __name__ == "__main__":
    sys.exit(main())
