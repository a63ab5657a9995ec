"""`opensloth export JOB`: a job's result as a merged checkpoint, a GGUF file or a pushed adapter."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from opensloth.cli.jobs import Reference
from opensloth.cli.output import Json
from opensloth.cli.references import job_id
from opensloth.cli.submit import follow_if, tell_submitted, telling_mistakes
from opensloth.client import Client


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
        with telling_mistakes(as_json):
            made = client.jobs.export(job_id(client, job), body)
        made = follow_if(wait, client, made, as_json)
    tell_submitted(made, wait, as_json)
