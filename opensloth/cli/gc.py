"""`opensloth gc`: clean the server's storage."""

from __future__ import annotations

from typing import Annotated

import typer

from opensloth.cli.formats import size
from opensloth.cli.output import Json, out, print_json, say, table
from opensloth.client import Client


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go, and how much it is.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what is older than the server keeps it, and what belongs to nothing (admins)."""
    with Client() as client:
        report = client.gc(dry_run=dry_run)
    if as_json:
        print_json(report)
        return
    if report["items"]:
        rows = [(item["kind"], item["key"], size(item["bytes"])) for item in report["items"]]
        out().print(table(["What", "Where", "Size"], rows, right=["Size"]))
    if report["count"] > len(report["items"]):
        say(f"... and {report['count'] - len(report['items'])} more.")
    say(f"{size(report['bytes'])} {'would go' if dry_run else 'went'}, {report['count']} in all.")
