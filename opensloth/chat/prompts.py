"""What a model is to go on from: the messages or prompts of a request, each checked where it stands."""

from __future__ import annotations

from typing import Any, Literal

from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.spec_shape import readable

_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_MESSAGE = {"role", "content", "name", "refusal", "annotations", "audio", "tool_calls", "function_call"}


def messages_of(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation as chat templates take it: a role and a text each. Raises InvalidInput naming the message."""
    return [_message(message, f"messages[{number}]") for number, message in enumerate(messages)]


def _message(message: dict[str, Any], path: str) -> dict[str, Any]:
    role = message.get("role")
    if role in ("tool", "function"):
        raise wrong(f"{path}.role", "tools are not supported", "unsupported_parameter")
    if not isinstance(role, str) or role not in _ROLES:
        raise wrong(f"{path}.role", f"must be one of {', '.join(_ROLES)}")
    for name in ("tool_calls", "function_call", "audio"):
        if message.get(name):
            raise wrong(f"{path}.{name}", f"{name} is not supported", "unsupported_parameter")
    if unknown := sorted(message.keys() - _MESSAGE):
        raise wrong(f"{path}.{readable(unknown[0])}", "there is no such field", "unknown_parameter")
    content = message.get("content")
    if isinstance(content, list) and content:
        content = "".join(_part(part, f"{path}.content[{number}]") for number, part in enumerate(content))
    if content is None and role == "assistant" and isinstance(message.get("refusal"), str):
        content = message["refusal"]
    if not isinstance(content, str):
        raise wrong(f"{path}.content", "must be text, or a list of parts of type text")
    return {"role": _ROLES[role], "content": content}


def _part(part: Any, path: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return str(part["refusal"])
    if kind != "text":
        raise wrong(f"{path}.type", "only parts of type text are supported", "unsupported_parameter")
    if not isinstance(part.get("text"), str):
        raise wrong(f"{path}.text", "must be text")
    return str(part["text"])


def prompts_of(prompt: Any) -> list[str | list[int]]:
    """The prompts of a completion; none is an empty text. Raises InvalidInput."""
    if prompt is None:
        return [""]
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(_is_token(item) for item in prompt):
            return [prompt]
        if len(prompt) <= 128 and all(isinstance(item, str) for item in prompt):
            return prompt
        tokens = [isinstance(item, list) and item and all(_is_token(number) for number in item) for item in prompt]
        if len(prompt) <= 128 and all(tokens):
            return prompt
    raise wrong("prompt", "must be a text, a list of tokens, or a list of up to 128 of either")


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def wrong(path: str, message: str, code: str = "invalid") -> InvalidInput:
    """The refusal of a body for one field."""
    return InvalidInput(f"{path}: {message}", fields=[FieldError(path, message, code)])
