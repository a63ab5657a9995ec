"""Reading a row's columns, with an error that names the column and what was expected."""

from __future__ import annotations

from typing import Any

from opensloth.rewards.failures import RowProblem
from opensloth.rewards.spec import Row


def value_of(row: Row, column: str) -> Any:
    """The value of `column`; raises RowProblem where there is none."""
    value = row.get(column)
    if value is None:
        raise RowProblem(f"column `{column}` is missing or null")
    if value != value:
        raise RowProblem(f"column `{column}` is NaN, which is no value; write one or remove the row")
    return value


def as_text(value: Any, column: str) -> str:
    """A string or number as text; raises RowProblem for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    raise RowProblem(f"column `{column}` must be text or a number, not {type(value).__name__}")


def texts_of(row: Row, column: str) -> list[str]:
    """The accepted texts in `column`: one, or a list of which any will do."""
    value = value_of(row, column)
    if isinstance(value, list | tuple):
        if not value:
            raise RowProblem(f"column `{column}` is an empty list")
        return [as_text(item, column) for item in value]
    return [as_text(value, column)]
