"""Generated days of a ten-person team on 8 GPUs: first come, first served with whole devices, beside ours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from benchmarks.support import save
from opensloth.scheduling.simulator import Report, simulate
from opensloth.scheduling.traces import box, team_day

HEADER = (
    "| load | policy | mean wait | p50 | p95 | turnaround / run time | makespan | Jain | preemptions | starts as said "
    "| of those that waited |"
)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=20, help="generated days; the results are their means")
    parser.add_argument("--device-hours", type=float, nargs="+", default=[60.0, 100.0, 140.0])
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {"unit": "s", "days": options.days, "loads": {}}
    print(HEADER)
    print("|" + " --- |" * HEADER.count(" |"))
    for load in options.device_hours:
        means = {}
        for policy in ("fifo", "opensloth"):
            days = [team_day(seed, device_hours=load) for seed in range(options.days)]
            means[policy] = mean([simulate(day, box(), policy, expectations=policy == "opensloth") for day in days])
            print(row(f"{load:.0f} device-hours", policy, means[policy]), flush=True)
        part = means["opensloth"]["wait_mean"] / means["fifo"]["wait_mean"]
        result["loads"][f"{load:.0f}"] = {**means, "wait_over_fifo": round(part, 3)}
    save("simulate", result)


def mean(reports: Sequence[Report]) -> dict[str, float]:
    """The mean of each number over the days; what a policy does not say is left out."""
    means = {}
    for field in fields(Report):
        values = [getattr(report, field.name) for report in reports]
        known = [value for value in values if isinstance(value, int | float)]
        if known:
            means[field.name] = round(sum(known) / len(known), 3)
    return means


def row(load: str, policy: str, means: dict[str, float]) -> str:
    cells = [
        load,
        "OpenSloth" if policy == "opensloth" else "FIFO",
        f"{means['wait_mean'] / 60:.1f} min",
        f"{means['wait_p50'] / 60:.1f}",
        f"{means['wait_p95'] / 60:.0f}",
        f"{means['stretch_mean']:.1f}",
        f"{means['makespan'] / 3600:.1f} h",
        f"{means['fairness']:.3f}",
        f"{means['preemptions']:.1f}",
        said(means.get("said_right")),
        said(means.get("said_right_of_waiting")),
    ]
    return "| " + " | ".join(cells) + " |"


def said(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.0f}%"
