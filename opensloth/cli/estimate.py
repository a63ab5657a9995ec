"""`opensloth estimate FILE.yaml`: what a job would need, where it would fit and when it would start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from opensloth.cli.formats import duration, moment, size
from opensloth.cli.output import Json, out, print_json, symbol, table
from opensloth.cli.specfile import read_spec
from opensloth.cli.submit import telling_mistakes, upload_datasets
from opensloth.client import Client, Estimate

PARTS = {
    "weights": "base weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "reference": "reference",
    "context": "CUDA or libraries",
    "activations": "activations",
    "logits": "logits",
    "generation": "sampling answers",
    "step": "optimizer's step",
}
"""What each part is called."""
BASES = {
    "asked": "as asked in resources.memory",
    "measured": "as jobs of this shape were measured",
    "estimated": "estimated",
    "unknown": "not known",
}


def estimate(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The job: the fields of POST /v1/jobs.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field: --set training_args.learning_rate=1e-5"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a job would need, without submitting it. Local datasets are uploaded, once for each content."""
    source = read_spec(file, overrides)
    with Client() as client:
        upload_datasets(client, source, quiet=as_json)
        with telling_mistakes(as_json, source):
            found = client.jobs.estimate(source.spec)
    if as_json:
        print_json(found.as_json())
    else:
        render(found)


def render(found: Estimate) -> None:
    """The estimate for people."""
    console = out()
    each = "on its device" if found.devices == 1 else f"on each of its {found.devices} devices"
    given = "whole devices" if found.memory_bytes is None else f"{size(found.memory_bytes)} {each}"
    console.print(f"Takes {given} ({BASES.get(found.basis, found.basis)})", markup=False, highlight=False)
    if found.parts:
        console.print(table(["Memory", "Estimate"], _memory(found.parts), right=["Estimate"]))
    if found.disk:
        console.print(table(["Disk", "Size"], _disk(found.disk), right=["Size"]))
    if found.fits:
        console.print(table(["Device", "Memory", "Alone", "Shared", "Now"], [_fit(fit) for fit in found.fits]))
    for line in _times(found):
        console.print(line, markup=False, highlight=False)
    for note in found.notes:
        console.print(note, markup=False, highlight=False, style=None if found.placeable else "yellow")


def _memory(parts: dict[str, int]) -> list[tuple[str, str]]:
    rows = [(title, size(parts[name])) for name, title in PARTS.items() if parts.get(name)]
    return [*rows, ("peak", size(parts.get("total")))]


def _disk(disk: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("a checkpoint", disk.get("checkpoint")), ("all checkpoints", disk.get("checkpoints"))]
    rows += [("the result", disk.get("result"))]
    rows += [(f"export {form}", some) for form, some in (disk.get("exports") or {}).items()]
    return [(title, size(some)) for title, some in rows]


def _fit(fit: dict[str, Any]) -> list[str | Text]:
    def mark(name: str) -> Text:
        yes = bool(fit.get(name))
        return Text(symbol("ok" if yes else "bad"), style="green" if yes else "red")

    return [str(fit.get("device")), size(fit.get("memory_bytes")), mark("alone"), mark("shared"), mark("now")]


def _times(found: Estimate) -> list[str]:
    lines = []
    took = found.duration or {}
    if took.get("expected_s") is not None:
        lines.append(f"Takes about {duration(took['expected_s'])} for {took.get('steps')} steps")
    queue = found.queue or {}
    if queue.get("position"):
        lines.append(f"Would be number {queue['position']} in the queue, waiting for {queue.get('waiting_for')}")
    if queue.get("expected_start"):
        lines.append(f"Expected start: {moment(queue['expected_start'])}")
    return lines
