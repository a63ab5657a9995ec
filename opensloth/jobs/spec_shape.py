"""Whether a posted body is a sane JSON object with known fields, and what pydantic found wrong, in people's words."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.spec_fields import ALLOWED, explain_unknown

MAX_DEPTH = 12
MAX_VALUES = 5_000
MAX_TEXT = 8_192
MAX_ERRORS = 50
_LARGEST = 2**63
S = TypeVar("S", bound=BaseModel)


def check_shape(body: Any) -> list[FieldError]:
    """Everything wrong with the form of a body; an error with code "malformed" means: do not look further."""
    if not isinstance(body, dict):
        return [FieldError("", f"a job is a JSON object, not {_kind(body)}", "malformed")]
    errors: list[FieldError] = []
    for n, (path, value, depth) in enumerate(_values(body)):
        if depth > MAX_DEPTH or n > MAX_VALUES:
            limit = f"more than {MAX_DEPTH} levels deep" if depth > MAX_DEPTH else f"more than {MAX_VALUES} values"
            return [FieldError(path, f"a job is small; this is {limit}", "malformed")]
        problem = _value_problem(value)
        if problem is not None:
            errors.append(FieldError(path, *problem))
    for parent, allowed in ALLOWED.items():
        unknown = sorted(_object_at(body, parent).keys() - allowed, key=str)
        for name in unknown[:MAX_ERRORS]:
            path = f"{parent}.{readable(name)}" if parent else readable(name)
            errors.append(FieldError(path, *explain_unknown(parent, str(name))))
    if any(error.code == "malformed" for error in errors):
        return [error for error in errors if error.code == "malformed"][:MAX_ERRORS]
    return sorted(errors, key=lambda error: error.path)[:MAX_ERRORS]


def parse_flat(
    body: Any, model: type[S], what: str, also: Callable[[dict[str, Any]], Iterable[FieldError]] = lambda body: ()
) -> S:
    """A posted body as a `model` without objects inside; `also` finds what concerns several fields.

    Raises InvalidInput with one FieldError for each problem; `what` is what the body stands for, as "an export".
    """
    if not isinstance(body, dict):
        raise InvalidInput("the body is not valid", fields=[FieldError("", f"{what} is a JSON object", "malformed")])
    errors = unknown_fields(body, model)
    spec = None
    try:
        spec = model.model_validate(body, strict=True)
    except ValidationError as invalid:
        errors += describe_errors(invalid, body)
    errors += also(body)
    if errors or spec is None:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors)
    return spec


def unknown_fields(value: dict[Any, Any], model: type[BaseModel], prefix: str = "") -> list[FieldError]:
    """The first fields of `value` that `model` does not know, each with what may have been meant."""
    known = list(model.model_fields)
    found = []
    for name in sorted(value.keys() - set(known), key=str)[:10]:
        near = difflib.get_close_matches(str(name)[:64], known, n=1)
        meant = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known)}"
        found.append(FieldError(f"{prefix}{readable(name)}", f"there is no such field; {meant}", "unknown_field"))
    return found


def describe_errors(invalid: ValidationError, body: Any) -> list[FieldError]:
    """One FieldError for each field that pydantic refused."""
    by_path: dict[str, FieldError] = {}
    choices = _choices_beside_booleans(invalid, body)
    for error in invalid.errors(include_url=False, include_context=False):
        path = _path_in(body, error["loc"])
        kind = str(error["type"])
        if kind == "missing":
            found = FieldError(path, "required", "required")
        elif kind == "extra_forbidden":
            parent, _, name = re.sub(r"\[\d+\]", "[]", path).rpartition(".")
            found = FieldError(path, *explain_unknown(parent, name))
        else:
            message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
            message = choices.get(path, message)
            if kind in ("too_short", "too_long"):
                message = message[message.index("should") :].replace(" after validation", "")
            else:
                message += f", not {readable(error['input'])}"
            found = FieldError(path, message, _code(kind))
        by_path.setdefault(path, found)
    return list(by_path.values())[:MAX_ERRORS]


def _choices_beside_booleans(invalid: ValidationError, body: Any) -> dict[str, str]:
    """For a field that is true, false or one of some texts: all of them, where pydantic tells of each kind alone."""
    kinds: dict[str, dict[str, str]] = {}
    for error in invalid.errors(include_url=False):
        kinds.setdefault(_path_in(body, error["loc"]), {})[error["type"]] = error.get("ctx", {}).get("expected", "")
    return {
        path: f"should be {found['literal_error'].replace(chr(39), chr(34))}, true or false"
        for path, found in kinds.items()
        if "literal_error" in found and "bool_type" in found
    }


def readable(value: Any) -> str:
    """A short printable form of anything that was sent, in JSON's words; short ASCII text stays as it is."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str) and value.isascii() and value.isprintable() and 0 < len(value) <= 64:
        return value
    if isinstance(value, dict | list):
        return _kind(value)
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "a number of more than 64 bits"
    shown = ascii(value)
    return shown if len(shown) <= 64 else f"{shown[:60]}..."


def _values(body: dict[Any, Any]) -> Iterator[tuple[str, Any, int]]:
    """Every key and value with its path and depth, without recursion: a body may be as deep as it likes."""
    stack: list[tuple[str, Any, int]] = [("", body, 0)]
    while stack:
        path, value, depth = stack.pop()
        yield path, value, depth
        if isinstance(value, dict):
            for key, inner in value.items():
                below = f"{path}.{readable(key)}" if path else readable(key)
                if not isinstance(key, str) or _text_problem(key):
                    yield below, key if isinstance(key, str) else _NotText(), depth
                stack.append((below, inner, depth + 1))
        elif isinstance(value, list):
            stack.extend((f"{path}[{n}]", inner, depth + 1) for n, inner in enumerate(value))


class _NotText:
    """Stands for a key that is not text, which JSON does not know."""


def _value_problem(value: Any) -> tuple[str, str] | None:
    if isinstance(value, str):
        problem = _text_problem(value)
        return (problem, "malformed") if problem else None
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, not {value}", "not_finite"
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "is larger than a 64-bit number", "out_of_range"
    if isinstance(value, bool | int | float | dict | list) or value is None:
        return None
    return "is not JSON", "malformed"


def _text_problem(text: str) -> str | None:
    if len(text) > MAX_TEXT:
        return f"is longer than {MAX_TEXT} characters"
    if "\0" in text:
        return "contains a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "contains half of a surrogate pair, which is not text"
    return None


def _object_at(body: dict[str, Any], path: str) -> dict[Any, Any]:
    value: Any = body
    for part in path.split(".") if path else []:
        value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _path_in(body: Any, location: tuple[int | str, ...]) -> str:
    """Pydantic's location as far as it is in the body: beyond that it names branches of unions."""
    path, value = "", body
    for part in location:
        if isinstance(value, dict) and part in value:
            path, value = (f"{path}.{readable(part)}" if path else readable(part)), value[part]
        elif isinstance(value, list) and isinstance(part, int):
            path, value = f"{path}[{part}]", value[part]
        elif isinstance(value, dict) and isinstance(part, str):
            return f"{path}.{part}" if path else part
        else:
            break
    return path


def _code(kind: str) -> str:
    if kind == "finite_number":
        return "not_finite"
    if kind.startswith(("greater_than", "less_than", "too_long", "too_short", "string_too")):
        return "out_of_range"
    if kind.endswith(("_type", "_parsing", "_from_float")):
        return "wrong_type"
    return "invalid"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
