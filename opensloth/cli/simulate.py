"""`opensloth simulate`: a trace of jobs played against policies, without a server."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from opensloth.cli import exit_codes
from opensloth.cli.output import Json, err, out, print_json, table
from opensloth.scheduling.simulator import Report, simulate_file

RIGHT = ("jobs", "mean wait", "p50", "p95", "utilisation", "makespan", "fairness", "as said")


def simulate(
    trace: Annotated[
        Path,
        typer.Argument(help="JSON lines, one job each; docs/sharing.md has examples.", exists=True, dir_okay=False),
    ],
    devices: Annotated[int, typer.Option(min=1, help="Devices of a host.")] = 8,
    hosts: Annotated[int, typer.Option(min=1, help="Hosts of the box.")] = 1,
    memory_gib: Annotated[float, typer.Option(min=1, help="Memory of a device.")] = 80.0,
    as_json: Json = False,
) -> None:
    """Play a trace of jobs against the policy, first come first served beside it."""
    try:
        reports = simulate_file(trace, hosts=hosts, devices=devices, memory_gib=memory_gib)
    except ValueError as error:
        err().print(str(error), style="red", highlight=False)
        raise typer.Exit(exit_codes.USAGE) from error
    if as_json:
        print_json([asdict(report) for report in reports])
    else:
        out().print(table(("policy", *RIGHT), [_row(report) for report in reports], right=RIGHT))


def _row(report: Report) -> list[str]:
    waits = [f"{seconds / 60:.1f} min" for seconds in (report.wait_mean, report.wait_p50, report.wait_p95)]
    said = "-" if report.said_right is None else f"{report.said_right:.0%}"
    ends = [f"{report.utilisation:.0%}", f"{report.makespan / 3600:.1f} h", f"{report.fairness:.3f}", said]
    return [report.policy, str(report.jobs), *waits, *ends]
