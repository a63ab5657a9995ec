"""A trainer that writes down what it finds of itself, and stays until it is told to go."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

from opensloth.training.secret_values import read_secrets
from opensloth.training.watchdog import start_watchdog

FAULT = "OMP_PROBE_FAULT"
"""What its imports do: `hang` or `die`; a trainer is told what begins with OMP_."""
LEFT = "opensloth_left_by_a_job"
"""A module of this name stands for what a job leaves in its process."""


def warm_up(engine: str) -> None:
    """The imports; also sets a variable and writes a file, as Unsloth does."""
    fault = os.environ.get(FAULT)
    if fault == "hang":
        signal.pause()
    if fault == "die":
        raise RuntimeError("asked to die")
    os.environ["OMP_PROBE_ENGINE"] = engine
    Path("generated").mkdir()
    Path("generated/code.py").write_text(engine)


def main() -> None:
    """The job."""
    start_watchdog()
    run_dir = Path(sys.argv[1])
    if not Path("generated").exists():
        warm_up("fresh")
    secrets = read_secrets()
    secrets.guard_output()
    print(f"the secret is {secrets.get('model')}")
    found = {
        "argv": sys.argv[1:],
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "secret": secrets.get("model"),
        "group": os.getpgrp(),
        "pid": os.getpid(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "left": LEFT in sys.modules,
        "random": random.random(),
        "files": sorted(os.path.realpath(f"/proc/self/fd/{fd}") for fd in ("0", "1", "2")),
    }
    sys.modules[LEFT] = sys
    random.seed(0)
    name = f"probe-{os.environ['RANK']}.json"
    (run_dir / f".{name}").write_text(json.dumps(found))
    (run_dir / f".{name}").rename(run_dir / name)
    while not (run_dir / "go").exists():
        signal.sigtimedwait([signal.SIGUSR2], 0.02)
    sys.exit(7)


if __name__ == "__main__":
    main()
