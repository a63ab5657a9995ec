"""OpenAI's grader templates: `{{ item.answer }}` is a column of the row, `{{ sample.output_text }}` the completion,
`{{ sample.output_json.total }}` a value in a completion that is JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from opensloth.rewards.failures import RowProblem, SampleProblem
from opensloth.rewards.spec import Row

# No two parts of it can match the same text: templates are read in the API process, where nothing bounds them.
_PLACE = re.compile(r"\{\{([^{}]{1,256})\}\}")
_OPEN = re.compile(r"\{\{\s?(?:item|sample)\b")
_ITEM = re.compile(r"item(?:\.[\w-]+)+")
_JSON = re.compile(r"sample\.output_json(?:\.[\w-]+)*")
OUTPUT = "sample.output_text"
_KNOWN = "{{item.COLUMN}}, {{sample.output_text}}, {{sample.output_json}} and {{sample.output_json.KEY}}"


def template_problem(template: str) -> str | None:
    """What is wrong with a template, or None."""
    if _OPEN.search(_PLACE.sub("", template)):
        return "a place that begins with `{{` ends with `}}`, both on either side of its name"
    for name in _places(template):
        if name != OUTPUT and not _ITEM.fullmatch(name) and not _JSON.fullmatch(name):
            return f"unknown place {{{{{name}}}}}; known are {_KNOWN}"
    return None


def _places(template: str) -> list[str]:
    return [name.strip() for name in _PLACE.findall(template)]


def columns_of(*templates: str) -> tuple[str, ...]:
    """The columns that templates read, in order."""
    names = (name for template in templates for name in _places(template) if name.startswith("item."))
    return tuple(dict.fromkeys(name.split(".")[1] for name in names))


def render(template: str, completion: str, row: Row) -> str:
    """The template with its places filled; raises RowProblem where the row lacks one, SampleProblem the completion."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1).strip()
        if name == OUTPUT:
            return completion
        return _in_json(completion, name) if name.startswith("sample.") else _text(_walk(row, name), name)

    return _PLACE.sub(fill, template)


def _walk(row: Row, name: str) -> Any:
    value: Any = row
    for key in name.split(".")[1:]:
        value = _inner(value, key)
        if value is None:
            raise RowProblem(f"column `{name.removeprefix('item.')}` is missing or null")
    return value


def _in_json(completion: str, name: str) -> str:
    try:
        value = json.loads(completion)
    except (ValueError, RecursionError):
        raise SampleProblem("the completion is no JSON") from None
    for key in name.split(".")[2:]:
        value = _inner(value, key)
    if value is None:
        raise SampleProblem(f"the completion has no `{name.removeprefix('sample.')}`")
    return _text(value, name)


def _inner(value: Any, key: str) -> Any:
    if isinstance(value, list) and key.isdigit() and int(key) < len(value):
        return value[int(key)]
    return value.get(key) if hasattr(value, "get") else None


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        raise RowProblem(f"column `{name.removeprefix('item.')}` is no text and no JSON") from None
