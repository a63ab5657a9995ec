"""One job on the terminal, from its state to what it was trained with and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from opensloth.cli.formats import ago, duration, moment, number, size
from opensloth.cli.watching import tell_failure
from opensloth.client import Job

SECTIONS = ("opensloth_config", "training_args")


def render_job(console: Console, job: Job) -> None:
    """Prints everything that a person wants to know of a job."""
    console.print(Text(f"{job.id}  {job.name or ''}", style="bold"), soft_wrap=True)
    console.print(_pairs(_facts(job)))
    if job.metrics:
        console.print(Text("\nLatest metrics", style="bold"))
        console.print(_pairs((name, _value(value)) for name, value in sorted(job.metrics.items())))
    for section in SECTIONS:
        settings = list(_settings(job, section))
        if settings:
            console.print(Text(f"\n{section}", style="bold"))
            console.print(_triples(settings))
    if job.result and job.result.artifacts:
        console.print(Text(f"\nResult {job.result.model or ''}", style="bold"))
        console.print(_pairs((artifact.name, size(artifact.bytes)) for artifact in job.result.artifacts))
    if job.state == "failed":
        console.print()
        tell_failure(job)


def _facts(job: Job) -> Iterator[tuple[str, str]]:
    yield "state", job.state + (f" ({job.reason})" if job.reason else "") + (f", {job.phase}" if job.phase else "")
    told = job.queue
    if told is not None:
        yield "waits for", told.waiting_for or "-"
        if told.position is not None:
            start = f", expected to start at {moment(told.expected_start)}" if told.expected_start else ""
            yield "queue", f"number {told.position}{start}"
    if job.attempt > 1:
        yield "attempt", str(job.attempt)
    progress = job.progress
    if progress is not None and progress.max_steps:
        left = "" if job.ended or progress.eta_s is None else f", {duration(progress.eta_s)} left"
        yield "step", f"{progress.step} of {progress.max_steps} ({progress.percent or 0:.0f}%){left}"
    resolved = job.resolved or {}
    if resolved.get("engine"):
        yield "engine", f"{resolved['engine']} on {resolved.get('device')}"
    if job.devices:
        yield "devices", ", ".join(job.devices)
    if job.owner:
        yield "owner", job.owner
    yield "submitted", ago(job.created_at)
    if job.run_s:
        yield "took", duration(job.run_s)
    for name, value in (job.metadata or {}).items():
        yield f"metadata {name}", value
    for split, counts in (job.data or {}).items():
        yield f"data {split}", _value(counts)


def _settings(job: Job, section: str) -> Iterator[tuple[str, str, str]]:
    """The resolved fields of a section with value and origin: set by hand, or the reason why they were chosen."""
    resolved = job.resolved or {}
    why = resolved.get("why") or {}
    posted = dict(_flat(job.spec.get(section) or {}, ""))
    for path, value in _flat(resolved.get(section) or {}, ""):
        reason = str(why.get(f"{section}.{path}") or "")
        if path in posted:
            changed = f"{reason} (set: {_value(posted[path])})" if reason else f"set: {_value(posted[path])}"
            yield path, _value(value), "set" if posted[path] == value else changed
        elif value is not None and reason:
            yield path, _value(value), reason


def _flat(value: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}", inner


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(inner)}" for name, inner in value.items() if inner != 0)
    return json.dumps(value)


def _pairs(pairs: Any) -> Table:
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for name, value in pairs:
        made.add_row(Text(f"  {name}", style="cyan"), Text(value))
    return made


def _triples(rows: list[tuple[str, str, str]]) -> Table:
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    for name, value, why in rows:
        made.add_row(Text(f"  {name}", style="cyan"), Text(value), Text(why, style="dim"))
    return made
