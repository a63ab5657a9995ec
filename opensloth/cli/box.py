"""The box as a picture: devices and what runs on them, the queue, and who used how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from opensloth.cli.formats import clock, moment, short, size
from opensloth.client import Job
from opensloth.remote.shapes import Device, QueueEntry, Use

BAR = 12
WIDE = 120
"""Columns from which on there is room for names and bars."""
USERS_SHOWN = 8
Rows = list[tuple[RenderableType, ...]]


@dataclass(frozen=True)
class Box:
    """What the server said at one moment."""

    url: str
    devices: Sequence[Device]
    running: Sequence[Job]
    queue: Sequence[QueueEntry]
    usage: Sequence[Use]

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "devices": [device.as_json() for device in self.devices],
            "running": [job.as_json() for job in self.running],
            "queue": [entry.as_json() for entry in self.queue],
            "usage": [use.as_json() for use in self.usage],
        }


def draw(
    box: Box, *, width: int = 0, height: int | None = None, bars: bool = True, remark: Text | None = None
) -> RenderableType:
    """The picture; with a `height` the queue is cut so that everything is on one screen."""
    users = box.usage[:USERS_SHOWN]
    narrow = 0 < width < WIDE
    parts: list[RenderableType] = [_head(box), Text(), _devices(box, bars and not narrow, named=not narrow)]
    lines = 6 + len(box.devices) + (len(users) + 2 if users else 0)
    room = len(box.queue) if height is None else max(1, height - lines - 3)
    parts += [Text(), *_queue(box.queue, room)]
    if users:
        parts += [Text(), Text("Used in the last 7 days", style="bold"), _usage(users, bars)]
    if remark:
        parts.append(remark)
    return Group(*parts)


def _head(box: Box) -> Text:
    busy = sum(bool(_jobs_on(box, device)) for device in box.devices)
    out = sum(bool(device.quarantined or device.draining) for device in box.devices)
    head = Text(box.url, style="bold", no_wrap=True, overflow="ellipsis")
    head.append(f"  {busy} of {len(box.devices)} devices with jobs, {len(box.running)} running, ", style="not bold")
    head.append(f"{len(box.queue)} queued", style="not bold")
    if out:
        head.append(f", {out} out of service", style="yellow")
    return head


def _jobs_on(box: Box, device: Device) -> list[str]:
    """What runs on a device, in words; jobs of other teams without a name."""
    known = {job.id: job for job in box.running if device.id in (job.devices or ())}
    told = [_words(job) for job in known.values()]
    others = sum(1 for held in device.jobs if held not in known)
    return told + [f"{others} of another team" if others > 1 else "another team's"] * (others > 0)


def _words(job: Job) -> str:
    words = f"{short(job.name or job.id, 24)} ({job.owner})"
    progress = job.progress
    if job.state != "running":
        return f"{words} {job.state}"
    if progress and progress.percent is not None:
        words += f" {progress.percent:.0f}%"
    if progress and progress.eta_s is not None:
        words += f", {clock(progress.eta_s)} left"
    return words


def _devices(box: Box, bars: bool, *, named: bool) -> Table:
    rows: Rows = []
    for device in box.devices:
        load = device.utilization
        cells: list[RenderableType] = [Text(f"{device.host_id}:{device.index}")]
        if named:
            cells.append(Text(short(device.name or "-", 28)))
        if bars:
            cells += [_bar(device.used_bytes, device.memory_bytes)]
        cells += [Text(_memory(device))]
        if bars:
            cells += [_bar(load, 100)]
        cells += [
            Text("-" if load is None else f"{load}%"),
            Text("-" if device.temperature is None else f"{device.temperature} C"),
            _state(box, device),
        ]
        rows.append(tuple(cells))
    gap = [""] if bars else []
    columns = ["Device", *(["Name"] if named else []), "Memory", *gap, "Load", *gap, "Temp.", "Runs"]
    return _table(columns, rows)


def _memory(device: Device) -> str:
    used = f"{size(device.used_bytes)} of {size(device.memory_bytes)}"
    return f"{used}, {size(device.foreign_bytes)} foreign" if device.foreign_bytes else used


def _state(box: Box, device: Device) -> Text:
    words = Text("; ".join(_jobs_on(box, device)), no_wrap=True, overflow="ellipsis")
    if device.quarantined:
        words.append(f"{'  ' if words else ''}out of service: {device.quarantined}", style="red")
        return words
    if not words:
        words.append("free", style="green")
    if device.draining:
        words.append("  draining", style="yellow")
    return words


def _bar(part: float | None, whole: float | None) -> RenderableType:
    if part is None or not whole:
        return Text("")
    return ProgressBar(total=whole, completed=part, width=BAR)


def _queue(entries: Sequence[QueueEntry], room: int) -> list[RenderableType]:
    if not entries:
        return [Text("The queue is empty", style="bold")]
    rows: Rows = [
        (
            Text(str(entry.position)),
            Text(short(entry.name or "another team's", 24), style="" if entry.id else "dim"),
            Text(entry.owner or "-"),
            Text(str(entry.devices)),
            Text(moment(entry.expected_start)),
            Text(entry.waiting_for or "-", no_wrap=True, overflow="ellipsis"),
        )
        for entry in entries[:room]
    ]
    drawn: list[RenderableType] = [
        Text("Queue", style="bold"),
        _table(["#", "Name", "Owner", "Devices", "Starts", "Waits for"], rows),
    ]
    if len(entries) > room:
        drawn.append(Text(f"and {len(entries) - room} more; `opensloth queue` shows them", style="dim"))
    return drawn


def _usage(users: Sequence[Use], bars: bool) -> Table:
    most = max((use.device_s for use in users), default=0.0)
    rows: Rows = [
        (
            Text(use.owner),
            *([_bar(use.device_s, most)] if bars else []),
            Text(f"{use.device_s / 3600:.1f} device hours"),
            Text(f"{use.devices} now" if use.devices else ""),
        )
        for use in users
    ]
    return _table(["", *([""] if bars else []), "", ""], rows, header=False)


def _table(columns: Sequence[str], rows: Rows, *, header: bool = True) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False, show_header=header)
    for number, column in enumerate(columns):
        # Rich takes room from columns that may wrap: from the last one alone, whose texts are cut instead.
        last = number == len(columns) - 1
        made.add_column(column, justify="right" if column in ("#", "Devices") else "left", no_wrap=not last)
    for row in rows:
        made.add_row(*row)
    return made
