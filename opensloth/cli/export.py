"""`opensloth export JOB`: a job's result as a merged checkpoint, a GGUF file or a pushed adapter."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from opensloth.cli import exit_codes
from opensloth.cli.failures import render_error
from opensloth.cli.jobs import Reference
from opensloth.cli.output import Json, err, print_json, say
from opensloth.cli.references import job_id
from opensloth.cli.submit import say_submitted
from opensloth.cli.watching import tell_outcome, wait_silently, watch_job
from opensloth.client import Client, InvalidRequest


def export(
    job: Reference,
    form: Annotated[str, typer.Option("--format", help="merged_16bit, gguf or adapter.")] = "merged_16bit",
    quantization: Annotated[
        str | None, typer.Option(help="Of a GGUF file: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0; default q8_0.")
    ] = None,
    push_to: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="Push the result to this hub repository.")] = (
        None
    ),
    secret: Annotated[str, typer.Option(help="The secret that holds the hub's token; see `opensloth secrets`.")] = "hf",
    public: Annotated[bool, typer.Option("--public", help="A repository made now is public.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it to its end; the exit code is its outcome.")] = False,
    as_json: Json = False,
) -> None:
    """Make a job's result a file that other programs load; `opensloth download` fetches it."""
    body: dict[str, Any] = {"format": form}
    if quantization is not None:
        body["quantization"] = quantization
    if push_to is not None:
        body["push_to_hub"] = {"repo": push_to, "private": not public, "secret": secret}
    with Client() as client:
        try:
            made = client.jobs.export(job_id(client, job), body)
        except InvalidRequest as problem:
            if as_json:
                raise
            render_error(err(), problem)
            raise typer.Exit(exit_codes.USAGE) from None
        if not as_json:
            say_submitted(made)
        if wait:
            made = wait_silently(client, made) if as_json else watch_job(client, made)
    if as_json:
        print_json(made.as_json())
    elif wait:
        tell_outcome(made)
    else:
        say(f"Watch it: opensloth watch {made.id}")
    if wait:
        raise typer.Exit(exit_codes.of_state(made.state))
