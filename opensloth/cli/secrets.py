"""`opensloth secrets`: tokens that jobs may use, written once and never shown."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from opensloth.cli.formats import ago
from opensloth.cli.output import Json, out, print_json, say, table
from opensloth.client import Client

secrets = typer.Typer(help="Store tokens for jobs (hub, trackers); nothing shows them again.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="What jobs call it, e.g. hf.")]
OfTeam = Annotated[str | None, typer.Option("--team", help="Of this team, for the jobs of all its members.")]


@secrets.command("set")
def set_secret(name: Name, team: OfTeam = None, as_json: Json = False) -> None:
    """Store a secret, or replace it; its value is asked for, or read from stdin if that is not a terminal."""
    value = typer.prompt("Value", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read()
    with Client() as client:
        stored = client.secrets.set(name, value.strip(), team)
    if as_json:
        print_json(stored.as_json())
    else:
        say(f"{name} is stored; jobs name it, nothing shows it.")


@secrets.command("list")
def list_secrets(as_json: Json = False) -> None:
    """List your secrets and those of your team, without their values."""
    with Client() as client:
        found = client.secrets.list()
    if as_json:
        print_json([one.as_json() for one in found])
        return
    rows = [(one.name, one.team or "you", ago(one.created_at), ago(one.updated_at)) for one in found]
    out().print(table(["Name", "For", "Made", "Changed"], rows))


@secrets.command("delete")
def delete_secret(name: Name, team: OfTeam = None, as_json: Json = False) -> None:
    """Forget a secret now."""
    with Client() as client:
        client.secrets.delete(name, team)
    if as_json:
        print_json({"name": name, "deleted": True})
    else:
        say(f"{name} is gone.")
