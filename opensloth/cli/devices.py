"""`opensloth devices`: the GPUs and CPU slots of the box, and taking one out of service and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.text import Text

from opensloth.cli.formats import ago, short, size
from opensloth.cli.output import Json, out, print_json, say, table
from opensloth.client import Client, Device, NotFound
from opensloth.remote.devices import Devices

devices = typer.Typer(help="Show the GPUs; admins drain them and put them back into service.")

Which = Annotated[
    str,
    typer.Argument(metavar="DEVICE", help="Its id, the beginning of one, host:index, or its index on the one host."),
]


@devices.callback(invoke_without_command=True)
def show_devices(context: typer.Context, as_json: Json = False) -> None:
    """Show each device with its memory, its health and what runs on it."""
    if context.invoked_subcommand is not None:
        return
    with Client() as client:
        found = client.devices.list()
    if as_json:
        print_json([device.as_json() for device in found])
        return
    if not found:
        say("No worker has said what it has.")
        return
    rows = [
        (
            Text(f"{device.host_id}:{device.index}", style="cyan"),
            short(device.id, 20),
            device.name or "-",
            f"{size(device.used_bytes)} of {size(device.memory_bytes)}",
            size(device.foreign_bytes) if device.foreign_bytes else "-",
            _health(device),
            _running(device),
        )
        for device in found
    ]
    out().print(table(["Device", "ID", "Name", "Memory", "Foreign", "Health", "Runs"], rows))


@devices.command("drain")
def drain(which: Which, as_json: Json = False) -> None:
    """Keep new jobs from a device; what runs on it goes on."""
    _change(which, Devices.drain, "gets no new jobs", as_json)


@devices.command("undrain")
def undrain(which: Which, as_json: Json = False) -> None:
    """Let jobs onto a drained device again."""
    _change(which, Devices.undrain, "takes jobs again", as_json)


@devices.command("release")
def release(which: Which, as_json: Json = False) -> None:
    """Put a quarantined device back into service."""
    _change(which, Devices.release, "is in service again", as_json)


def _change(which: str, how: Callable[[Devices, str], Device], done: str, as_json: bool) -> None:
    with Client() as client:
        device = how(client.devices, named(which, client.devices.list()).id)
    if as_json:
        print_json(device.as_json())
    else:
        say(f"{device.host_id}:{device.index} ({device.id}) {done}.")


def named(which: str, found: list[Device]) -> Device:
    """The one device that `which` names; raises NotFound where it is none or several."""
    hosts = {device.host_id for device in found}
    exact = [device for device in found if which in (device.id, f"{device.host_id}:{device.index}")]
    numbered = [device for device in found if len(hosts) == 1 and which == str(device.index)]
    begun = [device for device in found if len(which) >= 3 and device.id.startswith(which)]
    for matches in (exact, numbered, begun):
        if len(matches) == 1:
            return matches[0]
    many = "several devices" if begun else "no device"
    raise NotFound(f"{which!r} names {many}", code="not_found", hint="`opensloth devices` lists them")


def _health(device: Device) -> Text:
    if device.quarantined:
        return Text(f"quarantined {ago(device.quarantined_at)}: {device.quarantined}", style="red")
    style = {"ok": "green", "draining": "yellow"}.get(device.health or "", "red")
    return Text(device.health or "-", style=style)


def _running(device: Device) -> str:
    words = []
    for holder in device.holders:
        name = f"{holder.name or holder.job_id} ({holder.owner})" if holder.job_id else "another team's job"
        words.append(f"{name} {size(holder.used_bytes)}" if holder.used_bytes else name)
    return "; ".join(words) or "-"
