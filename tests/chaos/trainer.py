"""The trainer of the chaos box: the fake one, or the real one for a job that is named `real`; each notes that it lives.

The notes are lines `ATTEMPT SECONDS` in `alive/JOB` beside the runs, every 20 ms by the machine's monotonic clock, so
that two attempts of one job that live at the same time are found whoever killed what.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

NOTE_EVERY_S = 0.02


def note_life(run_dir: Path) -> None:
    """Say from now on that this attempt lives."""
    job_id, attempt = run_dir.parent.name, run_dir.name
    folder = run_dir.parents[2] / "alive"
    folder.mkdir(exist_ok=True)
    file = os.open(folder / job_id, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write() -> None:
        while True:
            os.write(file, f"{attempt} {time.monotonic():.4f}\n".encode())
            time.sleep(NOTE_EVERY_S)

    threading.Thread(target=write, name="alive", daemon=True).start()


def main() -> None:
    run_dir = Path(sys.argv[1])
    note_life(run_dir)
    if '"job_name": "real' in (run_dir / "run.json").read_text():
        from opensloth.training.main import main as real

        real()
    else:
        from tests.support.fake_trainer import main as fake

        fake()


if __name__ == "__main__":
    main()
