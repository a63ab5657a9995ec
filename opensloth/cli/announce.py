"""What `opensloth up` tells the person who watches it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from opensloth.cli.output import out, symbol

NEXT_STEPS = (
    ("opensloth models pull smollm2-135m", "a small model that needs no GPU"),
    ("opensloth submit examples/sft.yaml --wait", "train it and watch"),
    ("opensloth --help", "everything else"),
)


class Announcer:
    """Lines on stdout, one for each thing that happens; nobody has to be there to read them."""

    def __init__(self) -> None:
        self._console = out()

    def _print(self, *texts: Any, **style: Any) -> None:
        # A full disk behind stdout or a terminal that is gone. Where a pipe has no reader any more, rich is silent from
        # then on and would end the program.
        with contextlib.suppress(OSError, SystemExit):
            self._console.print(*texts, **style)

    def line(self, text: str, style: str | None = None) -> None:
        """A line of text as it is."""
        self._print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def part(self, kind: str, name: str, text: str) -> None:
        """What happened to a part; `kind` is `ready`, `note`, `problem` or `log` (a line of its log)."""
        sign, style = {"ready": (symbol("ok"), "green"), "problem": (symbol("bad"), "red")}.get(kind, (" ", "none"))
        if kind == "log":
            self._print(f"  [dim]{name:>9} |[/dim] ", end="", highlight=False)
        else:
            self._print(f"  [{style}]{sign}[/{style}] {name:<9}", end="", highlight=False)
        self.line(text)

    def welcome(self, url: str, credentials: Path, *, first_key: bool, remark: str | None) -> None:
        """Where the service is, where the key is, and what to type next."""
        self.line("")
        self._print(f"[bold]Ready at {url}[/bold]   API documentation: {url}/docs", highlight=False)
        if remark:
            self.line(remark, style="yellow")
        else:
            what = "A new admin key was written to" if first_key else "The admin key is in"
            self.line(f"{what} {credentials}; the commands below use it.")
        self.line("Next, in another terminal:")
        for command, why in NEXT_STEPS:
            self._print(f"  {command:<44}[dim]{why}[/dim]", highlight=False)
        self.line("Ctrl-C stops everything.")
