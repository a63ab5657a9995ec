"""Checks of a conversation: a list of `{"role", "content"}` objects whose roles take turns."""

from __future__ import annotations

from typing import Any, NamedTuple

KEYS = ("role", "content")
SYSTEM_ROLES = ("system", "developer")
_ANY = ("user", "assistant", *SYSTEM_ROLES)
MAY_FOLLOW: dict[str, tuple[str, ...]] = {
    "system": _ANY,
    "developer": _ANY,
    "user": _ANY,
    "assistant": (*_ANY, "tool"),
    "tool": (*_ANY, "tool"),
}
"""Which role may come after which; anything else is out of order. A model's own template may ask for more."""


class Problem(NamedTuple):
    """What is wrong with a row: the column at fault, and a sentence that says what to do."""

    column: str | None
    message: str


def shown(name: object) -> str:
    """A name from a file as it may appear in a message: printable ASCII, at most 60 characters."""
    text = str(name)
    escaped = text[:61].encode("ascii", "backslashreplace").decode()
    printable = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in escaped)
    return printable if len(text) <= 60 else printable[:60] + "..."


def kind(value: object) -> str:
    """The JSON name of a value's type; NaN, which JSON does not know, by its own name."""
    if value != value:
        return "NaN, which stands for a missing value"
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text"}
    return names.get(type(value)) or ("a list" if isinstance(value, list) else "an object")


def text_problem(value: object, column: str) -> Problem | None:
    """Whether `value` is text that can be trained on."""
    if not isinstance(value, str):
        missing = value is None
        return Problem(column, f"`{column}` is missing" if missing else f"`{column}` must be text and is {kind(value)}")
    if not value or value.isspace():
        return Problem(column, f"`{column}` is empty; write the text or remove the row")
    if "\0" in value:
        return Problem(column, f"`{column}` contains a NUL character (\\u0000); remove it")
    return None


def whole_conversation(value: object, column: str, keys: tuple[str, str] = KEYS) -> Problem | None:
    """A conversation that starts with the system or the user and ends with the assistant.

    `keys` are the names that role and content have in the file, for the messages.
    """
    return _conversation(value, column, keys, first=(*SYSTEM_ROLES, "user"), last=("assistant",))


def open_conversation(value: object, column: str, keys: tuple[str, str] = KEYS) -> Problem | None:
    """A conversation that waits for the assistant's answer."""
    return _conversation(value, column, keys, first=(*SYSTEM_ROLES, "user"), last=("user", "tool"))


def answer(value: object, column: str) -> Problem | None:
    """What the assistant says next: starts and ends with the assistant."""
    return _conversation(value, column, KEYS, first=("assistant",), last=("assistant",))


def _conversation(
    value: object, column: str, keys: tuple[str, str], *, first: tuple[str, ...], last: tuple[str, ...]
) -> Problem | None:
    if not isinstance(value, list):
        missing = value is None
        return Problem(column, f"`{column}` is missing" if missing else f"`{column}` must be a list of messages")
    if not value:
        return Problem(column, f"`{column}` is an empty list; write at least one message")
    before: str | None = None
    for index, message in enumerate(value):
        problem = _message(message, f"{column}[{index}]", keys)
        if problem:
            return problem
        role = message["role"]
        allowed = first if before is None else MAY_FOLLOW[before]
        if role not in allowed:
            place = "first" if before is None else f"after `{before}`"
            return Problem(
                f"{column}[{index}].{keys[0]}",
                f"roles are out of order: `{role}` comes {place}, where {_either(allowed)} belongs",
            )
        before = role
    if before not in last:
        cure = "add the assistant's answer" if "assistant" in last else f"it must end with {_either(last)}"
        return Problem(column, f"`{column}` ends with a `{before}` message; {cure}")
    return None


def _message(message: Any, place: str, keys: tuple[str, str]) -> Problem | None:
    role_key, content_key = keys
    if not isinstance(message, dict):
        return Problem(
            place, f"`{place}` must be an object with `{role_key}` and `{content_key}` and is {kind(message)}"
        )
    role = message.get("role")
    if not isinstance(role, str) or role not in MAY_FOLLOW:
        named = "missing" if role is None else f"`{shown(role)}`"
        return Problem(f"{place}.{role_key}", f"the role is {named}; use system, user, assistant or tool")
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1) or role != "assistant"):
        return Problem(f"{place}.weight", "`weight` must be 0 (not trained on) or 1, and only on assistant messages")
    content = message.get("content")
    if role == "assistant" and message.get("tool_calls"):
        problem = _tool_calls(message["tool_calls"], f"{place}.tool_calls")
        if problem or content is None or content == "":
            return problem
    if content == "" and role in (*SYSTEM_ROLES, "tool"):
        return None
    if isinstance(content, list):
        return _parts(content, f"{place}.{content_key}")
    return text_problem(content, f"{place}.{content_key}")


def _parts(content: list[Any], place: str) -> Problem:
    """What is wrong with parts that could not be joined to one text."""
    for index, part in enumerate(content):
        named = part.get("type") if isinstance(part, dict) else None
        if isinstance(named, str) and named != "text":
            cure = "models are trained on text alone here; leave the part out or remove the row"
            return Problem(f"{place}[{index}]", f"`{place}[{index}]` is of type `{shown(named)}`; {cure}")
    return Problem(place, f"`{place}` must be text, or parts that are all text")


def _tool_calls(calls: Any, place: str) -> Problem | None:
    if not isinstance(calls, list):
        return Problem(place, f"`{place}` must be a list and is {kind(calls)}")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return Problem(f"{place}[{index}]", "a tool call needs `function` with `name` and `arguments`")
        if isinstance(function.get("arguments"), str):
            return Problem(f"{place}[{index}].function.arguments", "the arguments are text that is not JSON")
    return None


def _either(roles: tuple[str, ...]) -> str:
    return " or ".join(f"`{role}`" for role in roles)
