"""The ranks of one attempt: one process group, a heartbeat pipe, and no way to outlive their worker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from worker.descendants import kill_descendants
from worker.environment import trainer_environment

START_TOLERANCE_S = 1.0
"""Two readings of a process's start time differ by less than this."""
_GONE_S = 10.0


@dataclass
class Ranks:
    """The running processes of an attempt; `heartbeat` is the write end of the pipe that all of them inherited."""

    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    heartbeat: int = -1
    _pipe: threading.Lock = field(default_factory=threading.Lock)
    """Another thread beats; a descriptor that was closed may be somebody else's by then."""

    @classmethod
    def spawn(
        cls, module: str, run_dir: Path, world_size: int, environment: dict[str, str], secrets: Mapping[str, str]
    ) -> Ranks:
        """Start `python -m MODULE RUN_DIR` for each rank; output goes to `trainer.log`.

        `secrets` go through a pipe of each rank's own: an environment can be read by whoever sees the process.
        """
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        ranks = cls(heartbeat=write_end)
        group = 0
        try:
            with (run_dir / "trainer.log").open("ab") as output:
                for rank in range(world_size):
                    told = _secrets_pipe(secrets) if secrets else None
                    process = subprocess.Popen(
                        [sys.executable, "-m", module, str(run_dir)],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        cwd=run_dir,
                        process_group=group,
                        pass_fds=[read_end] if told is None else [read_end, told],
                        env=trainer_environment(
                            os.environ,
                            RANK=str(rank),
                            LOCAL_RANK=str(rank),
                            WORLD_SIZE=str(world_size),
                            OPENSLOTH_HEARTBEAT_FD=str(read_end),
                            **({} if told is None else {"OPENSLOTH_SECRETS_FD": str(told)}),
                            **environment,
                        ),
                    )
                    if told is not None:
                        os.close(told)
                    ranks.processes.append(process)
                    group = ranks.processes[0].pid
        except BaseException:
            ranks.kill()
            raise
        finally:
            os.close(read_end)
        return ranks

    def beat(self, lease_s: float) -> None:
        """Tell the ranks that the lease is good for `lease_s` seconds from now."""
        with self._pipe, contextlib.suppress(BlockingIOError, BrokenPipeError):
            if self.heartbeat >= 0:  # else they are gone
                os.write(self.heartbeat, f"{lease_s:.3f}\n".encode())

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
        with self._pipe:
            if self.heartbeat >= 0:
                os.close(self.heartbeat)
                self.heartbeat = -1

    def identities(self) -> list[dict[str, Any]]:
        """Pid and start time of each rank that still runs."""
        found = []
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append({"pid": process.pid, "started": psutil.Process(process.pid).create_time()})
        return found


def _secrets_pipe(secrets: Mapping[str, str]) -> int:
    """The read end of a pipe that holds the secrets and has no writer left; they are shorter than a pipe's buffer."""
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as pipe:
        pipe.write(json.dumps(dict(secrets)).encode())
    return read_end


def kill_leftovers(processes: list[dict[str, Any]]) -> int:
    """Kill the groups of an earlier worker's ranks, each only if its start time is the recorded one.

    Returns how many there were, once they are gone: until then a next attempt would not be alone.
    """
    killed: list[psutil.Process] = []
    for entry in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            process = psutil.Process(int(entry["pid"]))
            if abs(process.create_time() - float(entry["started"])) < START_TOLERANCE_S:
                kill_descendants(process.pid)
                os.killpg(os.getpgid(process.pid), signal.SIGKILL)
                killed.append(process)
    psutil.wait_procs(killed, timeout=_GONE_S)
    return len(killed)
