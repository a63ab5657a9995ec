"""`opensloth login URL` and `opensloth key`: which server, and with which key."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from opensloth.cli.formats import ago
from opensloth.cli.output import Json, out, print_json, say, table
from opensloth.client import Client
from opensloth.remote.credentials import Credentials, credentials_path, find_credentials, write_credentials

keys = typer.Typer(help="Show your key; admins make, list and revoke keys.")


def login(
    url: Annotated[str, typer.Argument(help="The server's address, http://box:8400")],
    as_json: Json = False,
) -> None:
    """Store the address of a server and your key for it.

    The key is asked for, or read from stdin if that is not a terminal; it is tried before it is stored.
    """
    address = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
    key = typer.prompt("API key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    with Client(address, key.strip()) as client:
        next(client.models.list(limit=1), None)
    write_credentials(credentials_path(), Credentials(address, key.strip()))
    if as_json:
        print_json({"base_url": address, "credentials": str(credentials_path())})
    else:
        say(f"Logged in to {address}; the key is in {credentials_path()}.")


@keys.callback(invoke_without_command=True)
def key(context: typer.Context, as_json: Json = False) -> None:
    """Show the address and key in force, or manage keys."""
    if context.invoked_subcommand is None:
        show_key(as_json)


@keys.command("show")
def show_key(as_json: Json = False) -> None:
    """Show the address and key in force."""
    found = find_credentials()
    if as_json:
        print_json({"base_url": found.base_url, "api_key": found.api_key})
        return
    out().print(f"{found.base_url}\n{found.api_key}", markup=False, highlight=False, soft_wrap=True)


@keys.command("create")
def create_key(
    owner: Annotated[str, typer.Argument(help="Who the key is for.")],
    role: Annotated[str, typer.Option(help="member or admin")] = "member",
    as_json: Json = False,
) -> None:
    """Make a key (admins); it is shown once, now."""
    with Client() as client:
        made = client.keys.create(owner, role=role)
    if as_json:
        print_json(made.as_json())
        return
    out().print(str(made.key), markup=False, highlight=False, soft_wrap=True)
    say(f"This is the {role} key {made.id} of {owner}; it is not shown again.")


@keys.command("list")
def list_keys(as_json: Json = False) -> None:
    """List keys without their secrets (admins)."""
    with Client() as client:
        found = list(client.keys.list())
    if as_json:
        print_json([one.as_json() for one in found])
        return
    rows = [
        (one.id, one.owner or "-", one.role or "-", one.prefix or "-", ago(one.created_at), _standing(one.revoked_at))
        for one in found
    ]
    out().print(table(["ID", "Owner", "Role", "Begins", "Made", "Standing"], rows))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="key-...")],
    as_json: Json = False,
) -> None:
    """End a key at once (admins)."""
    with Client() as client:
        client.keys.revoke(key_id)
    if as_json:
        print_json({"id": key_id, "revoked": True})
    else:
        say(f"{key_id} is revoked.")


def _standing(revoked_at: str | float | None) -> str:
    return f"revoked {ago(revoked_at)}" if revoked_at else "in use"
