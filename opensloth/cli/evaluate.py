"""`opensloth evaluate JOB`: a job's result against the model that it was trained from, on held-out rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from opensloth.cli import exit_codes
from opensloth.cli.jobs import Reference
from opensloth.cli.output import Json, print_json, say
from opensloth.cli.references import job_id
from opensloth.cli.submit import follow_if, names_local_file, tell_submitted, telling_mistakes, upload_with_bar
from opensloth.cli.watching import tell_outcome
from opensloth.client import Client


def evaluate(
    job: Reference,
    grader: Annotated[
        list[str] | None,
        typer.Option(help="A reward's name, or a JSON file with a reward or an OpenAI grader; may come several times."),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="graders or preferences; by the job's method if not given.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="The rows: a file here, or the id of one; what the job kept, if not given.")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="At most so many rows; 200 if not given.")] = None,
    max_completion_tokens: Annotated[int | None, typer.Option(help="Longest answer; 256 if not given.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Randomness of the answers; 0 if not given.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it to its end, and show what it found.")] = False,
    as_json: Json = False,
) -> None:
    """Find out whether a job's result is better than its base, and how sure that is."""
    given = {
        "judge": judge,
        "graders": [_grader(one) for one in grader] if grader else None,
        "dataset": dataset,
        "rows": rows,
        "max_completion_tokens": max_completion_tokens,
        "temperature": temperature,
    }
    with Client() as client:
        source = job_id(client, job)
        if dataset is not None and names_local_file(dataset, Path()):
            given["dataset"] = _uploaded(client, Path(dataset).expanduser(), as_json)
        with telling_mistakes(as_json):
            made = client.jobs.evaluate(source, {name: value for name, value in given.items() if value is not None})
        made = follow_if(wait, client, made, as_json)
        found = client.jobs.evaluation(source, made.id) if wait else None
    if found is None:
        tell_submitted(made, wait, as_json)
        return
    if as_json:
        print_json(found)
    else:
        tell_outcome(made)
        _show(found.get("summary"))
    raise typer.Exit(exit_codes.of_state(made.state))


def _uploaded(client: Client, local: Path, quiet: bool) -> str:
    if not local.is_file():
        raise typer.BadParameter(f"there is no file at {local}", param_hint="--dataset")
    return upload_with_bar(client, local, quiet=quiet)


def _grader(given: str) -> Any:
    path = Path(given)
    if path.suffix != ".json":
        return given
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise typer.BadParameter(f"{given} cannot be read as JSON: {problem}", param_hint="--grader") from None


def _show(summary: dict[str, Any] | None) -> None:
    if summary is None:
        return
    say(f"{summary['rows']} rows of {summary['dataset']}, {summary['changed']} changed")
    for name, found in summary["measures"].items():
        low, high = found["interval"]
        said = (
            f"{found['base']:.4g} -> {found['result']:.4g}  ({found['difference']:+.4g}, 95% {low:+.4g} to {high:+.4g})"
        )
        say(f"  {name}: {said}: {found['verdict']}")
