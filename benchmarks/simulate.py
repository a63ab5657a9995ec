"""Plays generated days of a ten-person team on 8 GPUs, FIFO beside ours: `python benchmarks/simulate.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from opensloth.scheduling.simulator import Report, simulate
from opensloth.scheduling.traces import box, team_day

HEADER = (
    "| load | policy | mean wait (min) | p50 | p95 | stretch | utilisation | makespan (h) | Jain | "
    "preemptions | starts as said | of those that waited |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=20, help="generated days; the table has their means")
    parser.add_argument("--device-hours", type=float, nargs="+", default=[60.0, 100.0, 140.0])
    options = parser.parse_args()
    print(HEADER)
    print("|" + " --- |" * HEADER.count(" |"))
    for load in options.device_hours:
        for policy in ("fifo", "opensloth"):
            days = [team_day(seed, device_hours=load) for seed in range(options.days)]
            reports = [simulate(day, box(), policy, expectations=policy == "opensloth") for day in days]
            print(row(f"{load:.0f} device-hours", policy, reports))


def row(load: str, policy: str, reports: Sequence[Report]) -> str:
    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    cells = [
        load,
        policy,
        f"{mean([r.wait_mean for r in reports]) / 60:.1f}",
        f"{mean([r.wait_p50 for r in reports]) / 60:.1f}",
        f"{mean([r.wait_p95 for r in reports]) / 60:.0f}",
        f"{mean([r.stretch_mean for r in reports]):.1f}",
        f"{mean([r.utilisation for r in reports]):.2f}",
        f"{mean([r.makespan for r in reports]) / 3600:.1f}",
        f"{mean([r.fairness for r in reports]):.3f}",
        f"{mean([r.preemptions for r in reports]):.1f}",
        said([r.said_right for r in reports]),
        said([r.said_right_of_waiting for r in reports]),
    ]
    return "| " + " | ".join(cells) + " |"


def said(parts: Sequence[float | None]) -> str:
    known = [part for part in parts if part is not None]
    return f"{100 * sum(known) / len(known):.0f}%" if known else "-"


if __name__ == "__main__":
    main()
