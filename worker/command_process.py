"""A leased command seen from its supervisor: one process, its guard, which is never killed before what it guards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worker.descendants import kill_descendants, kill_marked
from worker.processes import Ranks

MODULE = "worker.command_main"
JOB_VARIABLE = "OPENSLOTH_JOB_ID"
_NAMES = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "CUDA_HOME", "CUDA_PATH")
"""What the guard itself needs to run; no secret is among them, for whoever has its account could read them."""


@dataclass
class GuardedCommand(Ranks):
    """The guard in the place of the ranks of a trainer."""

    job_id: str = ""

    @classmethod
    def start(cls, job_id: str, run_dir: Path, lease_until: Callable[[], float]) -> GuardedCommand:
        """Start the guard of the command in `run_dir`; its output goes to `trainer.log`."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        made = cls(heartbeats=[write_end], job_id=job_id)
        made.beat(lease_until())
        kept = {name: os.environ[name] for name in _NAMES if name in os.environ}
        try:
            with (run_dir / "trainer.log").open("ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", MODULE, str(run_dir)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=run_dir,
                    process_group=0,
                    pass_fds=[read_end],
                    env={**kept, "OPENSLOTH_HEARTBEAT_FD": str(read_end)},
                )
            made.processes.append(process)
        except BaseException:
            os.close(write_end)
            made.heartbeats.clear()
            raise
        finally:
            os.close(read_end)
        return made

    def kill(self) -> None:
        """End everything beneath the guard, then the guard."""
        for process in self.processes:
            if process.poll() is None:
                kill_descendants(process.pid)
        super().kill()
        # Nothing is left, unless somebody killed the guard first.
        kill_marked(JOB_VARIABLE, self.job_id)
