"""`opensloth jobs | show | watch | logs`: the jobs on the server."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.text import Text

from opensloth.cli import exit_codes
from opensloth.cli.formats import ago, duration, number, short
from opensloth.cli.output import Json, out, print_json, print_json_line, say, table
from opensloth.cli.references import job_id
from opensloth.cli.show import render_job
from opensloth.cli.watching import left_running, stream_events, tell_outcome, watch_job
from opensloth.client import Client, Job

Reference = Annotated[str, typer.Argument(metavar="JOB", help="Its id, the beginning of it, or `last`.")]

STATE_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "running": "bold cyan",
    "starting": "cyan",
    "stopping": "yellow",
}


def jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only jobs of this person.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with Client() as client:
        found = list(client.jobs.list(state=state, owner=owner, limit=limit))
    if as_json:
        print_json([job.as_json() for job in found])
    elif not found and (state or owner):
        say("There is no such job; `opensloth jobs` lists all.")
    elif not found:
        say("There is no job yet; `opensloth submit FILE.yaml` makes one.")
    else:
        out().print(job_table(found))


def show(job: Reference, as_json: Json = False) -> None:
    """Show one job: where it is, what it trains with and why, and what came out."""
    with Client() as client:
        found = client.jobs.get(job_id(client, job))
    if as_json:
        print_json(found.as_json())
    else:
        render_job(out(), found)


def watch(job: Reference, as_json: Json = False) -> None:
    """Follow a job to its end; the exit code is its outcome. Ctrl-C leaves it running.

    With --json: one event a line, and the job as the last line.
    """
    with Client() as client:
        found = client.jobs.get(job_id(client, job))
        if as_json:
            found = stream_events(client, found)
            print_json_line(found.as_json())
        else:
            found = watch_job(client, found)
            tell_outcome(found)
    raise typer.Exit(exit_codes.of_state(found.state))


def logs(
    job: Reference,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Print a job's log."""
    with Client() as client:
        found = job_id(client, job)
        pieces = client.jobs.follow_log(found) if follow else iter([client.jobs.log(found)])
        try:
            for text in pieces:
                if as_json:
                    print_json_line({"job_id": found, "text": text})
                else:
                    sys.stdout.write(text)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            raise left_running(found) from None


def job_table(found: list[Job]) -> Any:
    """Jobs as a table, one line each."""
    rows = [
        (
            Text(job.id),
            Text(short(job.name or "-", 32)),
            Text(job.state, style=STATE_STYLES.get(job.state, "")),
            Text(_done(job)),
            Text(_loss(job)),
            Text(_took(job)),
            Text(ago(job.created_at)),
        )
        for job in found
    ]
    columns = ["ID", "Name", "State", "Done", "Loss", "Took", "Made"]
    return table(columns, rows, right=["Done", "Loss", "Took"], shrink="Name")


def _done(job: Job) -> str:
    percent = job.progress.percent if job.progress else None
    return f"{percent:.0f}%" if percent is not None else "-"


def _loss(job: Job) -> str:
    value = (job.metrics or {}).get("loss")
    return number(float(value)) if isinstance(value, int | float) else "-"


def _took(job: Job) -> str:
    return duration(job.run_s or None)
