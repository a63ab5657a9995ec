"""`opensloth diff A B`: in what two jobs differ, from what was posted to what came out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from opensloth.cli.formats import number
from opensloth.cli.jobs import Reference
from opensloth.cli.output import Json, out, print_json, say, table
from opensloth.cli.references import job_id
from opensloth.client import Client, Job

Other = Annotated[str, typer.Argument(metavar="OTHER", help="The job to compare it with.")]
Differences = dict[str, dict[str, tuple[Any, Any]]]


def diff(job: Reference, other: Other, as_json: Json = False) -> None:
    """Compare two jobs: what was posted, what it resolved to, what became of the data, and the latest metrics."""
    with Client() as client:
        first = client.jobs.get(job_id(client, job))
        second = client.jobs.get(job_id(client, other))
    found = differences(first, second)
    if as_json:
        print_json({"jobs": [first.id, second.id], "differences": found})
    elif not any(found.values()):
        say(f"{first.id} and {second.id} do not differ.")
    else:
        _show(found, first, second)


def differences(first: Job, second: Job) -> Differences:
    """Each section's fields in which two jobs differ, by dotted path, with both values; None where there is none."""
    return {
        section: _differing(dict(_flat(a or {})), dict(_flat(b or {})))
        for section, a, b in (
            ("spec", first.spec, second.spec),
            ("resolved", _decided(first), _decided(second)),
            ("data", first.data, second.data),
            ("metrics", first.metrics, second.metrics),
        )
    }


def _decided(job: Job) -> dict[str, Any]:
    return {name: value for name, value in (job.resolved or {}).items() if name != "why"}


def _differing(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    # In the order of the first, where related fields are together.
    paths = dict.fromkeys([*first, *second])
    pairs = {path: (first.get(path), second.get(path)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def _flat(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}", inner


def _show(found: Differences, first: Job, second: Job) -> None:
    for section, rows in found.items():
        if rows:
            out().print(Text(f"\n{section}", style="bold"))
            cells = [(path, _text(a), _text(b)) for path, (a, b) in rows.items()]
            out().print(table(["Field", _named(first), _named(second)], cells))


def _named(job: Job) -> str:
    return f"{job.id[:14]} {job.name or ''}".strip()


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value)
