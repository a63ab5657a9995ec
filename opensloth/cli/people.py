"""`opensloth me | users | teams | audit`: who works here, what each may have, and who did what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from opensloth.cli.formats import ago, size
from opensloth.cli.output import Json, out, print_json, say, table
from opensloth.cli.quantities import count_limit, hours_limit, size_limit
from opensloth.client import Client
from opensloth.remote.shapes import Limited, Shape

users = typer.Typer(help="List the users; admins make, change and delete them.")
teams = typer.Typer(help="List the teams; admins make, change and delete them.")

Name = Annotated[str, typer.Argument(help="Its name.")]
Role = Annotated[str | None, typer.Option(help="viewer (reads), member (submits) or admin.")]
TeamName = Annotated[str | None, typer.Option("--team", help="The team to be in.")]
Account = Annotated[str | None, typer.Option(help="Account on the hosts for own commands, or none.")]
Share = Annotated[float | None, typer.Option(help="Weight among the users of a team, or among teams.")]
Devices = Annotated[str | None, typer.Option(help="Devices at once, or none for no limit.")]
Queued = Annotated[str | None, typer.Option(help="Jobs that wait, or none for no limit.")]
Hours = Annotated[str | None, typer.Option(help="Device-hours a month, or none for no limit.")]
Requests = Annotated[str | None, typer.Option(help="Requests a minute of each key, or none for the server's own.")]
Bytes = Annotated[str | None, typer.Option(help="Stored at most, e.g. 500GB, or none for no limit.")]


def me(as_json: Json = False) -> None:
    """Show who you are here, what your key may do, and what you have of what you may have."""
    with Client() as client:
        found = client.me()
    if as_json:
        print_json(found.as_json())
        return
    key = f", key {found.key.id}" if found.key else ""
    for_what = ", ".join(found.scopes) if found.scopes else "everything that the role allows"
    out().print(f"{found.name}, {found.role} of the team {found.team}{key}", markup=False, highlight=False)
    out().print(f"for {for_what}", markup=False, highlight=False)
    rows = [_standing("you", found.user), _standing(f"team {found.team}", found.its_team)]
    out().print(table(["", "Devices", "Queued", "Device-hours this month", "Stored"], rows))


@users.callback(invoke_without_command=True)
def list_users(context: typer.Context, as_json: Json = False) -> None:
    """List the users of your team, as an admin all; or make and change them."""
    if context.invoked_subcommand is not None:
        return
    with Client() as client:
        found = client.users.list()
    if as_json:
        print_json([one.as_json() for one in found])
        return
    rows = [
        (one.name, one.team or "-", f"{one.role} (disabled)" if one.disabled else one.role or "-", *_limits(one))
        for one in found
    ]
    out().print(table(["Name", "Team", "Role", *_LIMITS], rows))


@users.command("create")
def create_user(
    name: Name,
    role: Role = None,
    team: TeamName = None,
    account: Account = None,
    share: Share = None,
    max_devices: Devices = None,
    max_queued: Queued = None,
    device_hours: Hours = None,
    max_bytes: Bytes = None,
    requests_per_minute: Requests = None,
    as_json: Json = False,
) -> None:
    """Make a user (admins); `opensloth key create NAME` then makes a key."""
    limits = _given(share, max_devices, max_queued, device_hours, max_bytes, requests_per_minute)
    with Client() as client:
        made = client.users.create(name, **_person(role, team, account), **limits)
    _tell(
        made, as_json, f"{made.name} is a {made.role} of {made.team}; `opensloth key create {made.name}` makes a key."
    )


@users.command("set")
def change_user(
    name: Name,
    role: Role = None,
    team: TeamName = None,
    account: Account = None,
    disabled: Annotated[
        bool | None, typer.Option("--disabled/--enabled", help="Whether the user's keys are refused.")
    ] = None,
    share: Share = None,
    max_devices: Devices = None,
    max_queued: Queued = None,
    device_hours: Hours = None,
    max_bytes: Bytes = None,
    requests_per_minute: Requests = None,
    as_json: Json = False,
) -> None:
    """Change a user (admins): role, team, limits, or lock the user out."""
    limits = _given(share, max_devices, max_queued, device_hours, max_bytes, requests_per_minute)
    locked = {} if disabled is None else {"disabled": disabled}
    changes = _some({**_person(role, team, account), **locked, **limits})
    with Client() as client:
        changed = client.users.change(name, **changes)
    _tell(changed, as_json, f"{name} is changed.")


@users.command("delete")
def delete_user(name: Name, as_json: Json = False) -> None:
    """Remove a user to whom nothing belongs (admins); who has work here is disabled instead."""
    with Client() as client:
        client.users.delete(name)
    _tell_deleted(name, as_json)


@teams.callback(invoke_without_command=True)
def list_teams(context: typer.Context, as_json: Json = False) -> None:
    """Show your team, as an admin all; or make and change them."""
    if context.invoked_subcommand is not None:
        return
    with Client() as client:
        found = client.teams.list()
    if as_json:
        print_json([one.as_json() for one in found])
        return
    out().print(table(["Name", *_LIMITS], [(one.name, *_limits(one)) for one in found]))


@teams.command("create")
def create_team(
    name: Name,
    share: Share = None,
    max_devices: Devices = None,
    max_queued: Queued = None,
    device_hours: Hours = None,
    max_bytes: Bytes = None,
    requests_per_minute: Requests = None,
    as_json: Json = False,
) -> None:
    """Make a team (admins); `opensloth users set NAME --team TEAM` puts people into it."""
    limits = _given(share, max_devices, max_queued, device_hours, max_bytes, requests_per_minute)
    with Client() as client:
        made = client.teams.create(name, **limits)
    _tell(made, as_json, f"There is a team {name}; `opensloth users set NAME --team {name}` puts people into it.")


@teams.command("set")
def change_team(
    name: Name,
    share: Share = None,
    max_devices: Devices = None,
    max_queued: Queued = None,
    device_hours: Hours = None,
    max_bytes: Bytes = None,
    requests_per_minute: Requests = None,
    as_json: Json = False,
) -> None:
    """Change a team's share and limits (admins)."""
    limits = _some(_given(share, max_devices, max_queued, device_hours, max_bytes, requests_per_minute))
    with Client() as client:
        changed = client.teams.change(name, **limits)
    _tell(changed, as_json, f"{name} is changed.")


@teams.command("delete")
def delete_team(name: Name, as_json: Json = False) -> None:
    """Remove a team that nobody is in and nothing belongs to (admins)."""
    with Client() as client:
        client.teams.delete(name)
    _tell_deleted(name, as_json)


def audit(
    actor: Annotated[str | None, typer.Option(help="Only what this user did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this, e.g. job.cancel, or job for all of jobs.")] = None,
    to: Annotated[str | None, typer.Option(help="Only what was done to this: a job, a file, a user.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 20,
    as_json: Json = False,
) -> None:
    """Show who did what, newest first: all of it for admins, what you did yourself for others."""
    with Client() as client:
        found = list(client.audit(limit, actor=actor, action=action, object_id=to))
    if as_json:
        print_json([one.as_json() for one in found])
        return
    rows = [(ago(one.time), one.actor, one.action, one.object_id, _in_words(one.data)) for one in found]
    out().print(table(["When", "Who", "Did", "To", ""], rows))


_LIMITS = ("Share", "Devices", "Queued", "Device-hours", "Stored", "Requests/min")


def _limits(one: Limited) -> Sequence[str]:
    hours = "-" if one.device_hours is None else f"{one.device_hours:g}"
    devices, queued, requests = (
        "-" if limit is None else str(limit) for limit in (one.max_devices, one.max_queued, one.requests_per_minute)
    )
    return (f"{one.share:g}", devices, queued, hours, size(one.max_bytes), requests)


def _standing(whose: str, standing: dict[str, Any]) -> Sequence[str]:
    has, may = standing.get("has", {}), standing.get("may_have", {})

    def of(value: str, limit: str | None) -> str:
        return value if limit is None else f"{value} of {limit}"

    counts = [of(str(has.get(name)), _text(may.get(f"max_{name}"))) for name in ("devices", "queued")]
    hours = of(f"{has.get('device_hours', 0.0):.1f}", _text(may.get("device_hours")))
    most = may.get("max_bytes")
    return (whose, *counts, hours, of(size(has.get("bytes")), None if most is None else size(most)))


def _text(limit: float | None) -> str | None:
    return None if limit is None else f"{limit:g}"


def _given(
    share: float | None,
    devices: str | None,
    queued: str | None,
    hours: str | None,
    stored: str | None,
    requests: str | None,
) -> dict[str, Any]:
    """The limits that were typed, as the server names them."""
    typed = {
        "share": share,
        "max_devices": devices and (count_limit, devices),
        "max_queued": queued and (count_limit, queued),
        "device_hours": hours and (hours_limit, hours),
        "max_bytes": stored and (size_limit, stored),
        "requests_per_minute": requests and (count_limit, requests),
    }
    return {
        name: value[0](value[1], f"--{name.replace('_', '-')}") if isinstance(value, tuple) else value
        for name, value in typed.items()
        if value is not None
    }


def _some(changes: dict[str, Any]) -> dict[str, Any]:
    """The changes; refuses a command that asks for none, as "is changed" would not be true of it."""
    if not changes:
        raise typer.BadParameter("say what to change; `-h` lists it")
    return changes


def _person(role: str | None, team: str | None, account: str | None) -> dict[str, Any]:
    given: dict[str, Any] = {name: value for name, value in (("role", role), ("team", team)) if value is not None}
    if account is not None:
        given["account"] = None if account == "none" else account
    return given


def _tell(changed: Shape, as_json: bool, message: str) -> None:
    if as_json:
        print_json(changed.as_json())
    else:
        say(message)


def _tell_deleted(name: str, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "deleted": True})
    else:
        say(f"{name} is gone.")


def _in_words(data: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in data.items() if value is not None)
