"""OpenAI's grader templates: `{{ item.answer }}` is a column of the row, `{{ sample.output_text }}` the completion."""

from __future__ import annotations

import json
import re
from typing import Any

from opensloth.rewards.failures import RowProblem
from opensloth.rewards.spec import Row

# No two parts of it can match the same text: templates are read in the API process, where nothing bounds them.
_PLACE = re.compile(r"\{\{([^{}]{1,256})\}\}")
_ITEM = re.compile(r"item((?:\.[\w-]+)+)")
OUTPUT = "sample.output_text"


def template_problem(template: str) -> str | None:
    """What is wrong with a template, or None."""
    for name in _places(template):
        if name != OUTPUT and not _ITEM.fullmatch(name):
            return f"unknown place {{{{{name}}}}}; known are {{{{item.COLUMN}}}} and {{{{{OUTPUT}}}}}"
    return None


def _places(template: str) -> list[str]:
    return [name.strip() for name in _PLACE.findall(template)]


def columns_of(*templates: str) -> tuple[str, ...]:
    """The columns that templates read, in order."""
    names = (name for template in templates for name in _places(template) if name.startswith("item."))
    return tuple(dict.fromkeys(name.split(".")[1] for name in names))


def render(template: str, completion: str, row: Row) -> str:
    """The template with its places filled; raises RowProblem where the row lacks one."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1).strip()
        return completion if name == OUTPUT else _text(_walk(row, name), name)

    return _PLACE.sub(fill, template)


def _walk(row: Row, name: str) -> Any:
    value: Any = row
    for key in name.split(".")[1:]:
        if isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            value = value.get(key) if hasattr(value, "get") else None
        if value is None:
            raise RowProblem(f"column `{name.removeprefix('item.')}` is missing or null")
    return value


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        raise RowProblem(f"column `{name.removeprefix('item.')}` is no text and no JSON") from None
