"""`opensloth submit FILE.yaml` or `--from JOB`: upload the datasets it names and submit the job."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from opensloth.cli import exit_codes
from opensloth.cli.failures import render_error
from opensloth.cli.output import Json, err, out, print_json, say
from opensloth.cli.references import job_id
from opensloth.cli.specfile import SpecFile, apply_override, read_spec
from opensloth.cli.watching import tell_outcome, wait_silently, watch_job
from opensloth.client import Client, Field, InvalidRequest, Job
from opensloth.datasets.hub_names import parse_hub_dataset

DATASET_FIELDS = ("dataset", "eval_dataset")
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".gz", ".zst")


def submit(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE.yaml]", help="The job: the fields of POST /v1/jobs.")
    ] = None,
    from_job: Annotated[
        str | None, typer.Option("--from", metavar="JOB", help="Instead of a file: the job as that one was posted.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it to its end; the exit code is its outcome.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field: --set training_args.learning_rate=1e-5"),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key and job again give the same job, not another.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Submit a job. Datasets named by a local path, relative to the file, are uploaded, once for each content."""
    if (file is None) == (from_job is None):
        raise typer.BadParameter("name either a FILE.yaml or --from JOB")
    read = None if file is None else read_spec(file, overrides)
    with Client() as client:
        source = read or spec_of_job(client, str(from_job), overrides)
        upload_datasets(client, source, quiet=as_json)
        with telling_mistakes(as_json, source):
            job = client.jobs.submit(source.spec, idempotency_key=idempotency_key)
        job = follow_if(wait, client, job, as_json)
    tell_submitted(job, wait, as_json)


def spec_of_job(client: Client, reference: str, overrides: list[str] | None) -> SpecFile:
    """The spec of an earlier job with overrides applied; local files that these name are looked for here."""
    found = client.jobs.get(job_id(client, reference))
    spec = copy.deepcopy(found.spec)
    for override in overrides or []:
        apply_override(spec, override)
    return SpecFile(Path(found.id), spec, {})


@contextmanager
def telling_mistakes(as_json: bool, source: SpecFile | None = None) -> Iterator[None]:
    """Says what the server found wrong, at its line in `source`, and ends the command; raises it for JSON."""
    try:
        yield
    except InvalidRequest as problem:
        if as_json:
            raise
        render_error(err(), problem, source)
        raise typer.Exit(exit_codes.USAGE) from None


def follow_if(wait: bool, client: Client, job: Job, as_json: bool) -> Job:
    """Says that there is a new job, and sees it to its end if that is wanted; returns it as it is then."""
    if not as_json:
        # Its id on stdout, where a script looks for it.
        out().print(f"{job.id}  {job.name or ''}  {job.state}", markup=False, highlight=False, soft_wrap=True)
    if not wait:
        return job
    return wait_silently(client, job) if as_json else watch_job(client, job)


def tell_submitted(job: Job, waited: bool, as_json: bool) -> None:
    """Says what became of a new job, or how to watch it; raises typer.Exit with its outcome where it was waited for."""
    if as_json:
        print_json(job.as_json())
    elif waited:
        tell_outcome(job)
    else:
        say(f"Watch it: opensloth watch {job.id}")
    if waited:
        raise typer.Exit(exit_codes.of_state(job.state))


def upload_datasets(client: Client, source: SpecFile, *, quiet: bool) -> None:
    """Puts file ids where the spec names local files; raises InvalidRequest that names the line."""
    for name in DATASET_FIELDS:
        value = source.spec.get(name)
        if not isinstance(value, str) or not names_local_file(value, source.path.parent):
            continue
        local = (source.path.parent / Path(value).expanduser()).resolve()
        if not local.is_file():
            raise InvalidRequest(
                f"{source.path} names a dataset that is not there.",
                code="no_such_file",
                fields=[Field(_at(source, name), f"there is no file at {local}")],
            )
        source.spec[name] = upload_with_bar(client, local, quiet=quiet)


def names_local_file(value: str, folder: Path) -> bool:
    """Whether a dataset is meant to be a file here, and not the id of an uploaded one or a dataset of the hub."""
    if value.startswith("file-") and not value.endswith(DATA_SUFFIXES):
        return False
    if (folder / value).exists():
        return True
    return value.endswith(DATA_SUFFIXES) and parse_hub_dataset(value) is None


def upload_with_bar(client: Client, local: Path, *, quiet: bool = False, console: Console | None = None) -> str:
    """Uploads a file if its content is not there yet, with a bar in a terminal, and returns its id."""
    console = console or err()
    sent = False
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with bar:
        task = bar.add_task(f"Uploading {local.name}", total=None, visible=False)

        def advance(done: int, total: int) -> None:
            nonlocal sent
            sent = True
            bar.update(task, completed=done, total=total, visible=True)

        uploaded = client.files.upload(local, progress=advance)
    if not quiet:
        what = "uploaded" if sent else "is there already"
        console.print(f"{local.name} {what}: {uploaded.id}", markup=False, highlight=False, soft_wrap=True)
    return uploaded.id


def _at(source: SpecFile, name: str) -> str:
    line: Any = source.line_of(name)
    return f"{name} (line {line})" if line else name
