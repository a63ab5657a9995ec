"""`opensloth artifacts | download | script`: what a job made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from opensloth.cli.formats import size
from opensloth.cli.jobs import Reference
from opensloth.cli.output import Json, err, out, print_json, say, table
from opensloth.cli.references import job_id
from opensloth.client import Artifact, Client, NotFound


def artifacts(job: Reference, as_json: Json = False) -> None:
    """List the files of a job's result."""
    with Client() as client:
        found = client.jobs.artifacts(job_id(client, job))
    if as_json:
        print_json([artifact.as_json() for artifact in found])
        return
    rows = [(one.name, size(one.bytes), (one.sha256 or "-")[:16]) for one in found]
    out().print(table(["Name", "Size", "SHA-256"], rows, right=["Size"]))


def download(
    job: Reference,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these; default all.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder; default: the job's id.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch a job's result; each file is verified, and what is there already is not fetched again."""
    with Client() as client:
        found = job_id(client, job)
        wanted = _choose(client.jobs.artifacts(found), names or [], found)
        folder = output or Path(found)
        written = [_fetch(client, found, artifact, folder, quiet=as_json) for artifact in wanted]
    if as_json:
        print_json({"job_id": found, "folder": str(folder), "files": [str(path) for path in written]})
    else:
        say(f"{len(written)} files, {size(sum(artifact.bytes for artifact in wanted))}, in {folder}")


def script(job: Reference, as_json: Json = False) -> None:
    """Print a bare TRL script that trains the same without OpenSloth."""
    with Client() as client:
        found = job_id(client, job)
        text = client.jobs.script(found)
    if as_json:
        print_json({"job_id": found, "script": text})
    else:
        sys.stdout.write(text)


def _choose(there: list[Artifact], names: list[str], job: str) -> list[Artifact]:
    if not there:
        hint = f"`opensloth show {job}` says how far it is."
        raise NotFound(f"{job} has no result yet.", code="not_found", hint=hint)
    missing = set(names) - {artifact.name for artifact in there}
    if missing:
        hint = f"There are: {', '.join(artifact.name for artifact in there)}"
        raise NotFound(f"{job} has no {', '.join(sorted(missing))}.", code="not_found", hint=hint)
    return [artifact for artifact in there if not names or artifact.name in names]


def _fetch(client: Client, job: str, artifact: Artifact, folder: Path, *, quiet: bool) -> Path:
    console = err()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(artifact.name, total=artifact.bytes or None)
        return client.jobs.download_artifact(
            job, artifact, folder, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
