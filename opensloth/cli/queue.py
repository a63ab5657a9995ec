"""`opensloth queue`: who is next, what each job waits for, and when it is expected to start."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from opensloth.cli.formats import moment, short
from opensloth.cli.output import Json, out, print_json, say, table
from opensloth.client import Client
from opensloth.remote.shapes import QueueEntry


def queue(
    limit: Annotated[int, typer.Option(min=1, help="How many places from the front.")] = 100, as_json: Json = False
) -> None:
    """Show who is next, what each job waits for, and when it is expected to start."""
    with Client() as client:
        found = client.queue.list(limit=limit)
    if as_json:
        print_json([entry.as_json() for entry in found])
    elif not found:
        say("The queue is empty.")
    else:
        out().print(queue_table(found))


def queue_table(found: list[QueueEntry]) -> Any:
    """The queue as a table, one line each."""
    rows = [
        (
            Text(str(entry.position)),
            Text(entry.id or "-"),
            Text(short(entry.name or "another team's", 24), style="" if entry.id else "dim"),
            Text(entry.owner or "-"),
            Text(str(entry.devices)),
            Text(entry.priority or "-"),
            Text(moment(entry.expected_start)),
            Text(entry.waiting_for or "-"),
        )
        for entry in found
    ]
    columns = ["#", "Job", "Name", "Owner", "Devices", "Class", "Starts", "Waits for"]
    return table(columns, rows, right=["#", "Devices"], shrink="Waits for")
