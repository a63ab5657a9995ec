"""Random kills on a whole box, and what came of them: `python -m tests.chaos --rounds 1000 --seed 1`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.chaos.box import ROOT, Box
from tests.chaos.walk import Walk
from tests.support.jobs import body, wait_for

GOAL_S = 60.0


def real_job(box: Box) -> dict[str, Any]:
    """A training of a tiny random model, saved at every other step."""
    folder = box.folder / "real-model"
    folder.mkdir()
    make = "import sys, pathlib; from tests.support.tiny_model import make_tiny_model as make; "
    # A process of its own: this one stays without torch.
    subprocess.run([sys.executable, "-c", f"{make}make(pathlib.Path(sys.argv[1]))", str(folder)], cwd=ROOT, check=True)
    key = "models/tiny"
    box.services.storage.delete(key)
    box.services.storage.put_tree(folder, key, move=True)
    spec = body(box.services, box.dataset, "real", max_retries=100)
    spec["training_args"] = {
        "max_steps": 8, "save_steps": 2, "save_strategy": "steps", "logging_steps": 1, "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
    }  # fmt: skip
    return spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--real-every", type=int, default=10, help="every so often a real training; 0: never")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the box's folder for whoever wants to look")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the box must not stay behind
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    box = Box(folder, postgres=options.database == "postgresql")
    began = time.monotonic()
    result: dict[str, Any] = {}

    def audited(rounds: int) -> None:
        result.update(report(walk, options, rounds, time.monotonic() - began))
        kills = sum(walk.kills.values())
        print(f"seed {options.seed}, round {rounds}: {walk.jobs} jobs, {kills} kills, {walk.bad()}", flush=True)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")

    try:
        walk = Walk(box, options.seed, options.real_every, real_job(box) if options.real_every else None)
        box.start()
        wait_for(lambda: walk.now() and _is_up(box), 120, 0.2)
        walk.run(options.rounds, audited)
    finally:
        box.stop()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result, indent=1))
    sys.exit(1 if any(result["found"].values()) or result["recovery_s"]["p99"] > GOAL_S else 0)


def report(walk: Walk, options: argparse.Namespace, rounds: int, seconds: float) -> dict[str, Any]:
    """The figures of a walk."""
    times = sorted(walk.recoveries) or [0.0]
    return {
        "rounds": rounds,
        "seed": options.seed,
        "database": options.database,
        "machine": f"{os.cpu_count()} cores, {platform.platform()}",
        "seconds": round(seconds),
        "jobs": walk.jobs,
        "kills": walk.kills,
        "found": {name: len(lines) for name, lines in vars(walk.findings).items()},
        "details": {name: lines[:20] for name, lines in vars(walk.findings).items() if lines},
        "recovery_s": {
            "count": len(walk.recoveries),
            "p50": round(times[len(times) // 2], 2),
            "p99": round(times[min(len(times) - 1, int(len(times) * 0.99))], 2),
            "max": round(times[-1], 2),
        },
    }


def _is_up(box: Box) -> bool:
    import httpx

    try:
        return httpx.get(f"{box.url}/healthz", timeout=2).status_code < 500
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
