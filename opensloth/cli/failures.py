"""How an error looks to a person: what happened, the fields at fault as a table, what to do next."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from opensloth.cli.output import table
from opensloth.cli.specfile import SpecFile
from opensloth.remote.errors import ClientError, Field


def render_error(console: Console, error: ClientError, source: SpecFile | None = None) -> None:
    """Prints the error; with `source`, the line of each field in that file."""
    console.print(Text(f"Error: {error.message}", style="red"), soft_wrap=True)
    if error.fields:
        console.print(_field_table(error.fields, source))
    if error.hint:
        console.print(Text(f"Hint: {error.hint}"), soft_wrap=True)


def _field_table(fields: tuple[Field, ...], source: SpecFile | None) -> object:
    columns = ["Field", "What is wrong"]
    rows = [[Text(_place(field), style="bold"), Text(field.message)] for field in fields]
    if source is not None:
        columns.insert(1, "Line")
        for row, field in zip(rows, fields, strict=True):
            line = source.line_of(field.path)
            row.insert(1, Text(str(line) if line else "-"))
    return table(columns, rows, right=["Line"])


def _place(field: Field) -> str:
    return f"{field.path} (row {field.row})" if field.row is not None else field.path
