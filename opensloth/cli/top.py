"""`opensloth top`: the box in one screen, drawn again every few seconds."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from opensloth.cli import exit_codes
from opensloth.cli.box import Box, draw
from opensloth.cli.output import Json, out, print_json
from opensloth.client import Client, Unavailable, Unreachable

QUEUE_SHOWN = 200


def top(
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 2.0, as_json: Json = False
) -> None:
    """Show the devices with what runs on them, the queue, and who used how much this week; Ctrl-C leaves."""
    with Client() as client:
        if as_json:
            print_json(look(client).as_json())
            return
        console = out()
        if console.is_terminal and not console.is_dumb_terminal:
            _live(client, console, every)
        else:
            console.print(draw(look(client), bars=False))


def look(client: Client) -> Box:
    """What the screen shows, as it is now."""
    running = list(client.jobs.list(state="starting,running,stopping"))
    return Box(
        client.base_url, client.devices.list(), running, client.queue.list(limit=QUEUE_SHOWN), client.queue.usage()
    )


def _live(client: Client, console: Console, every: float) -> None:
    """Draws until Ctrl-C; a server that is away for a moment leaves the last picture, and says so."""
    box = look(client)
    trouble = ""
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(draw(box, width=console.width, height=console.height, remark=Text(trouble, style="yellow")))
                live.refresh()
                time.sleep(every)
                try:
                    box, trouble = look(client), ""
                except (Unreachable, Unavailable) as problem:
                    trouble = f"{problem.message} This is what was seen last."
    except KeyboardInterrupt:
        raise typer.Exit(exit_codes.INTERRUPTED) from None
