"""Adds up the reports of several walks: `python -m tests.chaos.figures FILE... > benchmarks/results/chaos.json`."""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def together(walks: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums; of the times the median of the walks' medians, and the 99th percentile of the slowest walk."""
    found, kills = Counter[str](), Counter[str]()
    for walk in walks:
        found.update(walk["found"])
        kills.update(walk["kills"])
    times = [walk["recovery_s"] for walk in walks]
    return {
        "rounds": sum(walk["rounds"] for walk in walks),
        "jobs": sum(walk["jobs"] for walk in walks),
        "kills": dict(kills),
        "found": dict(found),
        "recovery_s": {
            "count": sum(time["count"] for time in times),
            "p50": statistics.median(time["p50"] for time in times),
            "p99_of_the_slowest_walk": max(time["p99"] for time in times),
            "max": max(time["max"] for time in times),
        },
        "walks": walks,
    }


if __name__ == "__main__":
    print(json.dumps(together([json.loads(Path(name).read_text()) for name in sys.argv[1:]]), indent=1))
