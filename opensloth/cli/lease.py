"""`opensloth lease --gpus 1 --time-limit 2h -- python mine.py`: a command of one's own on the devices."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from opensloth.cli import exit_codes
from opensloth.cli.output import Json, print_json, say
from opensloth.cli.submit import telling_mistakes
from opensloth.cli.watching import left_running
from opensloth.client import Client, ClientError, Conflict, Job


def lease(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after `--`.", metavar="-- CMD")],
    time_limit: Annotated[str, typer.Option(help='Longest time on the devices, as "2h" or "90m".')],
    gpus: Annotated[int, typer.Option(min=0, help="Devices; it has them for itself.")] = 1,
    idle: Annotated[
        str | None, typer.Option(metavar="TIME", help="End it once nothing has happened for so long.")
    ] = None,
    directory: Annotated[
        str | None, typer.Option("-C", "--directory", help="Folder on the worker's host; default: this one.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable to set; repeat it.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    priority: Annotated[str, typer.Option(help="low, normal, high or urgent.")] = "normal",
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Do not wait for its end.")] = False,
    as_json: Json = False,
) -> None:
    """Run a command on a GPU host under your own account there, through the queue. The exit code is the command's.

    Ctrl-C asks whether to end it. The server's admin has to allow leases and to name your account.
    """
    body: dict[str, Any] = {"command": command, "time_limit": time_limit, "gpus": gpus, "priority": priority}
    body["directory"] = directory or os.getcwd()
    body |= {"idle_limit": idle} if idle else {}
    body |= {"name": name} if name else {}
    body |= {"environment": _variables(env)} if env else {}
    with Client() as client:
        with telling_mistakes(as_json):
            made = client.jobs.lease(body)
        if as_json or detach:
            _tell(made, as_json)
            return
        say(f"{made.id} is {made.state}; its output follows here.")
        ended = _follow(client, made)
    raise typer.Exit(_outcome(ended))


def _variables(env: list[str]) -> dict[str, str]:
    pairs = [entry.partition("=") for entry in env]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise typer.BadParameter(f"{wrong[0]!r} is not NAME=VALUE", param_hint="--env")
    return {name: value for name, _, value in pairs}


def _tell(made: Job, as_json: bool) -> None:
    if as_json:
        print_json(made.as_json())
    else:
        say(f"{made.id} is {made.state}. Its output: opensloth logs -f {made.id}")


def _follow(client: Client, job: Job) -> Job:
    """Prints what the command prints until it has ended; Ctrl-C asks whether to end it."""

    def on_drop(problem: ClientError, pause_s: float) -> None:
        say(f"{problem.message} Trying again in {pause_s:.1f} s.")

    printed = 0
    while True:
        skip = printed
        try:
            for text in client.jobs.follow_log(job.id, on_drop=on_drop):
                fresh, skip = text[skip:], max(0, skip - len(text))
                sys.stdout.write(fresh)
                sys.stdout.flush()
                printed += len(fresh)
            return client.jobs.get(job.id)
        except KeyboardInterrupt:
            _end_or_leave(client, job)


def _end_or_leave(client: Client, job: Job) -> None:
    """Ends the command, if that is wanted; else raises typer.Exit. Where nobody can be asked, it is ended."""
    try:
        if sys.stdin.isatty() and not typer.confirm(f"\nEnd {job.id}?", default=True, err=True):
            raise left_running(job.id)
    except (KeyboardInterrupt, typer.Abort):
        pass  # Ctrl-C again: yes
    try:
        say(f"{job.id} is being ended.")
        client.jobs.cancel(job.id)
    except Conflict:
        say("It has ended by itself.")


def _outcome(job: Job) -> int:
    """The exit code of the command, or what stands for the way it was ended."""
    code = job.result.exit_code if job.result else None
    if code is not None:
        return code
    if job.state == "cancelled":
        say(f"{job.id} was cancelled.")
    elif job.error is not None:
        say(f"{job.id} {job.state}: {job.error.message}")
    return exit_codes.of_state(job.state)
