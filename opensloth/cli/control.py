"""`opensloth cancel | pause | resume | retry | move | priority | keep | delete`: what is done to a job."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from opensloth.cli.jobs import Reference
from opensloth.cli.output import Json, print_json, say
from opensloth.cli.references import job_id
from opensloth.cli.submit import follow_if, tell_submitted
from opensloth.client import Client, Conflict, Job


def cancel(
    job: Reference,
    no_save: Annotated[bool, typer.Option("--no-save", help="End it at once, without a checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Ask a job to stop."""
    with Client() as client:
        found = job_id(client, job)
        try:
            asked = client.jobs.cancel(found, save=not no_save)
        except Conflict:
            asked = client.jobs.get(found)
            if not asked.ended or as_json:
                raise
    if asked.ended:
        _tell(asked, as_json, f"{asked.id} has ended: {asked.state}")
    else:
        what = "it is killed without a checkpoint" if no_save else "it saves what it has and ends"
        _tell(asked, as_json, f"{asked.id} is {asked.state}; {what}.")


def pause(job: Reference, as_json: Json = False) -> None:
    """Pause a job: out of the queue, or off its devices to a checkpoint, until `opensloth resume`."""
    with Client() as client:
        asked = client.jobs.pause(job_id(client, job))
    saves = "; it saves a checkpoint and gives its devices back" if asked.state == "stopping" else ""
    _tell(asked, as_json, f"{asked.id} is {asked.state}{saves}. Go on with it: opensloth resume {asked.id}")


def resume(job: Reference, as_json: Json = False) -> None:
    """Queue a paused job again; it goes on as if it had never stopped."""
    with Client() as client:
        asked = client.jobs.resume(job_id(client, job))
    _tell(asked, as_json, f"{asked.id} is {asked.state}.")


def retry(
    job: Reference,
    from_checkpoint: Annotated[
        bool, typer.Option("--from-checkpoint", help="Go on from its newest checkpoint, not from the beginning.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it to its end; the exit code is its outcome.")] = False,
    as_json: Json = False,
) -> None:
    """Try a job that is over again, as a new job."""
    with Client() as client:
        made = client.jobs.retry(job_id(client, job), from_checkpoint=from_checkpoint)
        made = follow_if(wait, client, made, as_json)
    tell_submitted(made, wait, as_json)


def move(
    job: Reference,
    before: Annotated[str | None, typer.Option(metavar="JOB", help="The job of yours to stand before.")] = None,
    to: Annotated[str | None, typer.Option(help="front or back.")] = None,
    as_json: Json = False,
) -> None:
    """Give a job another place among your own of the same priority that have not begun."""
    if (before is None) == (to is None):
        raise typer.BadParameter("say either --before JOB, --to front or --to back")
    with Client() as client:
        other = job_id(client, before) if before is not None else None
        moved = client.jobs.move(job_id(client, job), before=other, to=to)
    _tell(
        moved, as_json, f"{moved.id} stands {f'before {other}' if other else f'at the {to}'} of {moved.owner}'s jobs."
    )


def priority(
    job: Reference,
    name: Annotated[str, typer.Argument(metavar="PRIORITY", help="low, normal, high or urgent.")],
    as_json: Json = False,
) -> None:
    """Set a job's priority; raising it is for admins."""
    with Client() as client:
        changed = client.jobs.set_priority(job_id(client, job), name)
    _tell(changed, as_json, f"{changed.id} has priority {name}.")


def keep(
    job: Reference,
    off: Annotated[bool, typer.Option("--off", help="Let it go with its age again.")] = False,
    as_json: Json = False,
) -> None:
    """Keep what a job left, whatever its age."""
    with Client() as client:
        kept = client.jobs.keep(job_id(client, job), not off)
    _tell(kept, as_json, f"{kept.id} {'goes with its age' if off else 'is kept'}.")


def delete(
    job: Reference,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a job that is over, with its checkpoints, logs and result. There is no way back."""
    with Client() as client:
        found = client.jobs.get(job_id(client, job))
        if not yes:
            if not sys.stdin.isatty():
                raise typer.BadParameter("say --yes: nobody can be asked here")
            typer.confirm(f"Delete {found.id} ({found.name}) with all that it left?", abort=True, err=True)
        client.jobs.delete(found.id)
    if as_json:
        print_json({"id": found.id, "deleted": True})
    else:
        say(f"{found.id} is gone.")


def _tell(job: Job, as_json: bool, message: str) -> None:
    if as_json:
        print_json(job.as_json())
    else:
        say(message)
