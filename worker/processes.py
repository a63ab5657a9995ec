"""The ranks of one attempt: one process group, a heartbeat pipe, and no way to outlive their worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from opensloth.training.secret_values import secrets_pipe
from worker.descendants import kill_descendants, kill_marked, lives
from worker.environment import trainer_environment
from worker.standby import Standby, beat

START_TOLERANCE_S = 1.0
"""Two readings of a process's start time differ by less than this."""
RUN_VARIABLE = "OPENSLOTH_RUN_DIR"
"""The run folder of an attempt, in the environment of its ranks and of all that they start."""
_GONE_S, _LOOK_S = 10.0, 0.02


@dataclass
class Ranks:
    """The running processes of an attempt; `heartbeats` are the write ends of the pipes that they inherited."""

    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    heartbeats: list[int] = field(default_factory=list)
    waited: set[int] = field(default_factory=set)
    """Those that were there before the job."""
    run_dir: Path | None = None
    _pipe: threading.Lock = field(default_factory=threading.Lock)
    """Another thread beats; a descriptor that was closed may be somebody else's by then."""

    @classmethod
    def spawn(
        cls,
        module: str,
        run_dir: Path,
        world_size: int,
        environment: dict[str, str],
        secrets: Mapping[str, str],
        standbys: Sequence[Standby | None] = (),
        wait: Callable[[], bool] = lambda: True,
        lease_until: Callable[[], float] | None = None,
    ) -> Ranks:
        """Start `python -m MODULE RUN_DIR` for each rank, or let its standby take its place.

        Output goes to `trainer.log`. `secrets` go through a pipe of each rank's own: an environment can be read by
        whoever sees the process. `wait` pauses a moment and says whether to go on, while a standby is waited for.
        `lease_until` says, by the monotonic clock, until when the lease is good: the ranks have that from the start.
        """
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        ranks = cls(heartbeats=[write_end], run_dir=run_dir)
        if lease_until is not None:
            ranks.beat(lease_until())
        try:
            for rank in range(world_size):
                group = ranks.processes[0].pid if ranks.processes else 0
                numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
                values = trainer_environment(os.environ, **numbers, **environment, **{RUN_VARIABLE: str(run_dir)})
                standby = standbys[rank] if rank < len(standbys) else None
                if standby is not None and standby.hand_over(run_dir, values, secrets, group, wait, lease_until):
                    ranks.processes.append(standby.process)
                    ranks.waited.add(standby.process.pid)
                    ranks.heartbeats.append(standby.heartbeat)
                else:
                    ranks.processes.append(_start(module, run_dir, values, secrets, group, read_end))
        except BaseException:
            ranks.kill()
            raise
        finally:
            os.close(read_end)
        return ranks

    def beat(self, until: float) -> None:
        """Tell the ranks until when the lease is good, by the monotonic clock, which all processes of a host share."""
        with self._pipe:
            for heartbeat in self.heartbeats:  # none once they are gone
                beat(heartbeat, until)

    def poll(self) -> list[int | None]:
        """The exit status of each rank, None while it runs."""
        return [process.poll() for process in self.processes]

    def alive(self) -> bool:
        """Whether any rank still runs."""
        return any(status is None for status in self.poll())

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; nothing happens once it is gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.processes[0].pid, number)

    def terminate(self) -> None:
        """Ask the ranks to save a checkpoint and leave."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the group and whatever it started, reap it and close the pipe."""
        if self.processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.processes[0].pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()
        if self.run_dir is not None:
            kill_marked(RUN_VARIABLE, str(self.run_dir))
        with self._pipe:
            while self.heartbeats:
                os.close(self.heartbeats.pop())

    def identities(self) -> list[dict[str, Any]]:
        """Pid and start time of each rank that still runs, and whether it was a standby."""
        found = []
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                started = psutil.Process(process.pid).create_time()
                found.append({"pid": process.pid, "started": started, "standby": process.pid in self.waited})
        return found


def _start(
    module: str, run_dir: Path, values: Mapping[str, str], secrets: Mapping[str, str], group: int, heartbeat: int
) -> subprocess.Popen[bytes]:
    """A new process in the process group `group` (0: of its own); `heartbeat` is the read end of a pipe."""
    told = secrets_pipe(secrets) if secrets else None
    fds = {"OPENSLOTH_HEARTBEAT_FD": heartbeat, **({} if told is None else {"OPENSLOTH_SECRETS_FD": told})}
    try:
        with (run_dir / "trainer.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, str(run_dir)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=run_dir,
                process_group=group,
                pass_fds=list(fds.values()),
                env={**values, **{name: str(number) for name, number in fds.items()}},
            )
    finally:
        if told is not None:
            os.close(told)


def kill_leftovers(processes: list[dict[str, Any]]) -> int:
    """Kill the groups of an earlier worker's ranks, each only if its start time is the recorded one.

    Returns how many there were, once they are gone: until then a next attempt would not be alone. One that has ended is
    gone, also where the earlier worker, which may be stopped, does not reap it.
    """
    killed: list[psutil.Process] = []
    for entry in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            process = psutil.Process(int(entry["pid"]))
            if abs(process.create_time() - float(entry["started"])) < START_TOLERANCE_S and lives(process):
                kill_descendants(process.pid)
                os.killpg(os.getpgid(process.pid), signal.SIGKILL)
                killed.append(process)
    until = time.monotonic() + _GONE_S
    while any(map(lives, killed)) and time.monotonic() < until:
        time.sleep(_LOOK_S)
    return len(killed)
