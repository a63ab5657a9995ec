"""`opensloth login URL` and `opensloth key`: which server, and with which key."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from opensloth.cli.formats import ago, parse_time
from opensloth.cli.output import Json, out, print_json, say, table
from opensloth.cli.quantities import count_limit, seconds
from opensloth.client import Client, Key
from opensloth.remote.credentials import (
    Credentials,
    credentials_path,
    find_credentials,
    read_credentials,
    write_credentials,
)

keys = typer.Typer(help="Show your key; make, list, rotate and revoke your keys, as an admin everybody's.")
Expires = Annotated[str | None, typer.Option("--expires", help="When it ends: 12h, 90d; never if not given.")]


def login(
    url: Annotated[str, typer.Argument(help="The server's address, http://box:8400")],
    as_json: Json = False,
) -> None:
    """Store the address of a server and your key for it.

    The key is asked for, or read from stdin if that is not a terminal; it is tried before it is stored.
    """
    address = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
    typed = typer.prompt("API key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    key = typed.strip()
    if not key:
        raise typer.BadParameter("there is no key on stdin; an admin makes one with `opensloth key create NAME`")
    with Client(address, key) as client:
        client.me()  # the one route that needs no scope
    write_credentials(credentials_path(), Credentials(address, key))
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
    role: Annotated[str, typer.Option(help="viewer, member or admin")] = "member",
    scope: Annotated[list[str] | None, typer.Option(help="What it is for, e.g. jobs:write; several times.")] = None,
    expires: Expires = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="How much it may ask (admins).")] = None,
    as_json: Json = False,
) -> None:
    """Make a key for yourself, as an admin for anybody; it is shown once, now."""
    with Client() as client:
        made = client.keys.create(
            owner,
            role=role,
            scopes=scope,
            expires_in_s=seconds(expires, "--expires"),
            requests_per_minute=requests_per_minute,
        )
    if as_json:
        print_json(made.as_json())
        return
    out().print(str(made.key), markup=False, highlight=False, soft_wrap=True)
    say(f"This is the {role} key {made.id} of {owner}; it is not shown again.")


@keys.command("list")
def list_keys(as_json: Json = False) -> None:
    """List your keys without their secrets, as an admin all."""
    with Client() as client:
        found = list(client.keys.list())
    if as_json:
        print_json([one.as_json() for one in found])
        return
    rows = [
        (
            *(one.id, one.owner or "-", one.role or "-", ", ".join(one.scopes or ["all"]), one.prefix or "-"),
            *(ago(one.created_at), ago(one.last_used_at), _standing(one)),
        )
        for one in found
    ]
    out().print(table(["ID", "Owner", "Role", "For", "Begins", "Made", "Used", "Standing"], rows))


@keys.command("rotate")
def rotate_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="key-...")],
    overlap: Annotated[str, typer.Option(help="How long the old key still works: 0s, 1h, 7d.")] = "0s",
    expires: Expires = None,
    as_json: Json = False,
) -> None:
    """Make a key in place of another; it is shown once, now. If it is the one in force here, it is stored."""
    with Client() as client:
        in_force = client.me().key
        made = client.keys.rotate(
            key_id, overlap_s=seconds(overlap, "--overlap") or 0.0, expires_in_s=seconds(expires, "--expires")
        )
        if in_force is not None and in_force.id == key_id and made.key and read_credentials(credentials_path()):
            write_credentials(credentials_path(), Credentials(client.base_url, made.key))
            say(f"The new key is in {credentials_path()}.")
    if as_json:
        print_json(made.as_json())
        return
    out().print(str(made.key), markup=False, highlight=False, soft_wrap=True)
    say(f"This is the key {made.id} in place of {key_id}; it is not shown again.")


@keys.command("set")
def change_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="key-...")],
    requests_per_minute: Annotated[str, typer.Option(help="How much it may ask, or none for what its user may.")],
    as_json: Json = False,
) -> None:
    """Say how many requests a minute a key may send (admins)."""
    with Client() as client:
        changed = client.keys.limit(key_id, count_limit(requests_per_minute, "--requests-per-minute"))
    if as_json:
        print_json(changed.as_json())
        return
    most = changed.requests_per_minute
    say(f"{key_id} may send {'what its user may' if most is None else f'{most:,} requests a minute'}.")


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="key-...")],
    as_json: Json = False,
) -> None:
    """End one of your keys at once, as an admin any."""
    with Client() as client:
        client.keys.revoke(key_id)
    if as_json:
        print_json({"id": key_id, "revoked": True})
    else:
        say(f"{key_id} is revoked.")


def _standing(key: Key) -> str:
    if key.revoked_at:
        return f"revoked {ago(key.revoked_at)}"
    ends = parse_time(key.expires_at)
    if ends is None:
        return "in use"
    return f"ends {ends:%Y-%m-%d %H:%M} UTC" if ends > datetime.now(UTC) else f"ended {ago(key.expires_at)}"
