"""`opensloth webhooks`: addresses that are told what happens to the team's jobs."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import typer

from opensloth.cli import exit_codes
from opensloth.cli.formats import ago, moment
from opensloth.cli.output import Json, out, print_json, say, table
from opensloth.client import Client
from opensloth.remote.webhooks import Webhook

webhooks = typer.Typer(help="Tell addresses of your team what happens to its jobs.", no_args_is_help=True)

ENDS = ("fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled")

Which = Annotated[str, typer.Argument(metavar="ID", help="webhook_...")]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", help="What it is told, e.g. fine_tuning.job.failed; several times. Default: every end."),
]
Name = Annotated[str | None, typer.Option(help="What people call it. Default: the address's host.")]


@webhooks.command("list")
def list_webhooks(as_json: Json = False) -> None:
    """List the webhooks of your team, as an admin all."""
    with Client() as client:
        found = list(client.webhooks.list())
    if as_json:
        print_json([one.as_json() for one in found])
        return
    rows = [(one.id, one.name, one.url, "\n".join(one.event_types), one.owner or "-", _standing(one)) for one in found]
    out().print(table(["ID", "Name", "URL", "Told", "Owner", "Standing"], rows))


@webhooks.command("create")
def create_webhook(
    url: Annotated[str, typer.Argument(help="Where it is told, by https.")],
    event: Events = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Register an address; the secret by which it knows us is shown once, now."""
    with Client() as client:
        made = client.webhooks.create(name or urlsplit(url).hostname or "webhook", url, event or ENDS)
    _show_secret(made, as_json, f"{made.id} is told; this is its signing secret, which is not shown again.")


@webhooks.command("set")
def change_webhook(
    webhook_id: Which,
    url: Annotated[str | None, typer.Option(help="Where it is told from now on.")] = None,
    event: Annotated[list[str] | None, typer.Option("--event", help="What it is told; several times.")] = None,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enabled/--disabled", help="Whether it is told anything.")] = None,
    as_json: Json = False,
) -> None:
    """Change a webhook; once enabled again, what was on its way to it before is sent."""
    given = {"url": url, "event_types": event, "name": name, "enabled": enabled}
    changes = {field: value for field, value in given.items() if value not in (None, [])}
    if not changes:
        raise typer.BadParameter("say what to change: --url, --event, --name, --enabled or --disabled")
    with Client() as client:
        changed = client.webhooks.change(webhook_id, **changes)
    if as_json:
        print_json(changed.as_json())
    else:
        say(f"{webhook_id} is changed.")


@webhooks.command("rotate")
def rotate_secret(
    webhook_id: Which,
    keep_old: Annotated[bool, typer.Option("--keep-old", help="Sign by the old secret too for a day.")] = False,
    as_json: Json = False,
) -> None:
    """Make a new signing secret; it is shown once, now."""
    with Client() as client:
        made = client.webhooks.rotate_secret(webhook_id, keep_old=keep_old)
    old = "signs too for a day" if keep_old else "signs no more"
    _show_secret(made, as_json, f"This is the new signing secret of {webhook_id}; the old one {old}.")


@webhooks.command("test")
def try_webhook(
    webhook_id: Which,
    event: Annotated[str, typer.Option(help="Of which event to send a sample.")] = ENDS[0],
    as_json: Json = False,
) -> None:
    """Send a sample event now and tell what the receiver answers."""
    with Client() as client:
        status = client.webhooks.test(webhook_id, event)
    arrived = 200 <= status < 300
    if as_json:
        print_json({"id": webhook_id, "event_type": event, "status_code": status, "arrived": arrived})
    else:
        say(f"The receiver answered with status {status}" + ("." if arrived else ", which is not taken as received."))
    raise typer.Exit(exit_codes.SUCCEEDED if arrived else exit_codes.FAILED)


@webhooks.command("deliveries")
def list_deliveries(
    webhook_id: Which,
    status: Annotated[str | None, typer.Option(help="Only pending, delivered or failed.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 20,
    as_json: Json = False,
) -> None:
    """Show what was sent, what came of it, and what is still to be sent."""
    with Client() as client:
        found = list(client.webhooks.deliveries(webhook_id, status=status, limit=limit))
    if as_json:
        print_json([one.as_json() for one in found])
        return
    rows = [
        (
            *(ago(one.created_at), one.event_type, one.job_id or "-", one.status, str(one.attempts)),
            *(moment(one.next_attempt_at), one.last_error or str(one.last_status_code or "-")),
        )
        for one in found
    ]
    out().print(table(["When", "Event", "Job", "Status", "Attempts", "Next", "Answer"], rows))


@webhooks.command("delete")
def delete_webhook(webhook_id: Which, as_json: Json = False) -> None:
    """Remove a webhook; what was on its way to it is not sent any more."""
    with Client() as client:
        client.webhooks.delete(webhook_id)
    if as_json:
        print_json({"id": webhook_id, "deleted": True})
    else:
        say(f"{webhook_id} is gone.")


def _standing(webhook: Webhook) -> str:
    if not webhook.enabled:
        return f"disabled: {webhook.disabled_reason}" if webhook.disabled_reason else "disabled"
    return f"fails since {ago(webhook.failing_since)}" if webhook.failing_since else "ok"


def _show_secret(made: Webhook, as_json: bool, message: str) -> None:
    if as_json:
        print_json(made.as_json())
        return
    out().print(str(made.signing_secret), markup=False, highlight=False, soft_wrap=True)
    say(message)
