"""Where a rank stands: on SIGUSR1 it writes the stacks of its threads, even while it hangs in a library."""

from __future__ import annotations

import faulthandler
import os
import signal
from pathlib import Path

SIGNAL = signal.SIGUSR1


def stacks_path(run_dir: Path, rank: int) -> Path:
    """The file that a rank writes to."""
    return run_dir / f"stacks-{rank}.txt"


def answer_with_stacks(run_dir: Path) -> None:
    """From now on the signal is answered; Python's handler for it runs in C and waits for no thread."""
    path = stacks_path(run_dir, int(os.environ.get("RANK", "0")))
    # Open for as long as the process lives: whoever hangs can open nothing any more.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    faulthandler.register(SIGNAL, file=file, all_threads=True)
