"""What goes to the terminal: people read stdout and stderr, programs read the JSON of `--json` on stdout alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]

UNLIMITED = 100_000
"""Columns of an output that is not a terminal."""
_SYMBOLS = {"ok": ("✓", "ok"), "bad": ("✗", "!!"), "dot": ("·", "-"), "arrow": ("→", "->")}


def out() -> Console:
    """The console for results; without colour where there is no terminal or NO_COLOR is set."""
    return _console(stderr=False)


def err() -> Console:
    """The console for remarks and errors, so that stdout stays what was asked for."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # A file or a pipe has no width: what is one line here can be found by grep.
        console.width = UNLIMITED
    return console


def symbol(name: str) -> str:
    """A small sign, in ASCII where the terminal's encoding has nothing better."""
    fancy, plain = _SYMBOLS[name]
    return fancy if is_unicode() else plain


def is_unicode() -> bool:
    """Whether stdout can carry more than ASCII."""
    # Not sys.stdout, which rich replaces while something live is shown.
    stream = sys.__stdout__ or sys.stdout
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_json_line(value: Any) -> None:
    """One JSON object on one line of stdout, for streams."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: Sequence[str] = (),
    shrink: str | None = None,
) -> Table:
    """A table without lines; the columns named in `right` are aligned there.

    Where there is too little room, the column `shrink` is cut and each row stays on one line; without it texts fold.
    """
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for number, column in enumerate(columns):
        made.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            # Rich takes room from the columns that may wrap; the texts of `shrink` say themselves that they do not.
            no_wrap=number == 0 if shrink is None else column != shrink,
        )
    cut = columns.index(shrink) if shrink is not None else -1
    for row in rows:
        made.add_row(*[_on_one_line(cell) if number == cut else cell for number, cell in enumerate(row)])
    return made


def _on_one_line(cell: str | Text) -> Text:
    return Text(str(cell), no_wrap=True, overflow="ellipsis")


def say(message: str, *, style: str | None = None) -> None:
    """A remark for people, on stderr."""
    err().print(message, style=style, highlight=False, soft_wrap=True, markup=False)
