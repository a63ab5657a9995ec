"""Rows as people have them to the few forms that are trained on; nothing is checked here, and nothing ever raises."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

RawRow = Mapping[str, Any]
Converter = Callable[[RawRow], dict[str, Any]]

ROLES = {
    "developer": "system",
    "function": "tool",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "observation": "tool",
}
"""Other names of the roles; a chat template knows system, user, assistant and tool."""


def plain(row: RawRow) -> dict[str, Any]:
    """A row that is trained on as it stands."""
    return dict(row)


def chat(row: RawRow) -> dict[str, Any]:
    """OpenAI's chat rows: `messages`, with `tools` (or the older `functions`) and a `weight` on answers."""
    done = {**row, "messages": to_messages(row.get("messages"))}
    return _with_tools(done, row)


def open_chat(row: RawRow) -> dict[str, Any]:
    """OpenAI's rows for reinforcement: `messages` that wait for an answer are the prompt, the rest is for graders."""
    return _with_tools({**row, "prompt": to_messages(row.get("messages"))}, row)


def sharegpt(row: RawRow) -> dict[str, Any]:
    """ShareGPT: `conversations` of `from` and `value`, and optionally `system` and `tools`."""
    done = {key: value for key, value in row.items() if key not in ("conversations", "system")}
    done["messages"] = _with_system(row.get("system"), to_messages(row.get("conversations")))
    return _with_tools(done, row)


def alpaca(row: RawRow) -> dict[str, Any]:
    """Alpaca: `instruction` with optional `input` as what the user says, `output` as the answer."""
    done = {key: value for key, value in row.items() if key not in ("instruction", "input", "output", "system")}
    instruction, given = row.get("instruction"), row.get("input")
    said = f"{instruction}\n\n{given}" if isinstance(given, str) and given.strip() else instruction
    turns = [{"role": "user", "content": said}, {"role": "assistant", "content": row.get("output")}]
    done["messages"] = _with_system(row.get("system"), turns)
    return done


def prompt_messages(row: RawRow) -> dict[str, Any]:
    """`prompt` with an answer in any of the usual columns; messages are normalised, text is left as it is."""
    names = ("prompt", "completion", "chosen", "rejected")
    return _with_tools({**row, **{name: to_messages(row[name]) for name in names if name in row}}, row)


def whole_preference(row: RawRow) -> dict[str, Any]:
    """`chosen` and `rejected` as whole conversations; what both begin with is the prompt."""
    chosen, rejected = to_messages(row.get("chosen")), to_messages(row.get("rejected"))
    start = shared_start(chosen, rejected)
    done = {**row, "prompt": chosen[:start], "chosen": chosen[start:], "rejected": rejected[start:]}
    return _with_tools(done, row)


def sharegpt_preference(row: RawRow) -> dict[str, Any]:
    """`conversations` that wait for an answer, `chosen` and `rejected` as one message or a list of them."""
    done = {key: value for key, value in row.items() if key not in ("conversations", "system")}
    done["prompt"] = _with_system(row.get("system"), to_messages(row.get("conversations")))
    for name in ("chosen", "rejected"):
        done[name] = to_answer(row.get(name))
    return _with_tools(done, row)


def openai_preference(row: RawRow) -> dict[str, Any]:
    """OpenAI's preference rows: `input.messages`, `preferred_output`, `non_preferred_output`."""
    given = row.get("input")
    inner: RawRow = given if isinstance(given, dict) else {}
    names = ("input", "preferred_output", "non_preferred_output")
    done = {key: value for key, value in row.items() if key not in names}
    done["prompt"] = to_messages(inner.get("messages"))
    done["chosen"] = to_answer(row.get("preferred_output"))
    done["rejected"] = to_answer(row.get("non_preferred_output"))
    return _with_tools(done, inner)


def shared_start(chosen: Any, rejected: Any) -> int:
    """How many messages two conversations have in common, not counting a last one."""
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        return 0
    count = 0
    for first, second in zip(chosen[:-1], rejected[:-1], strict=False):
        if first != second:
            break
        count += 1
    return count


def to_answer(value: Any) -> Any:
    """An answer as a list of messages; text and a message alone are one."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    return to_messages([value] if isinstance(value, dict) else value)


def to_messages(value: Any) -> Any:
    """A list of messages in the shape that chat templates know; anything else as it is."""
    return [_message(item) for item in value] if isinstance(value, list) else value


def _message(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    message = {key: value for key, value in item.items() if value is not None or key == "content"}
    if "from" in message and "role" not in message:
        message = {"role": message.pop("from"), "content": message.pop("value", None), **message}
    role = message.get("role")
    if role == "function_call":
        called = _parsed(message.get("content"))
        if isinstance(called, dict):
            return {"role": "assistant", "content": None, "tool_calls": [_call({"function": called})]}
    if isinstance(role, str):
        message["role"] = ROLES.get(role, role)
    message["content"] = _joined(message.get("content"))
    refusal = message.pop("refusal", None)
    if isinstance(refusal, str) and message["content"] is None:
        message["content"] = refusal
    if isinstance(message.get("function_call"), dict):
        message["tool_calls"] = [{"function": message.pop("function_call")}]
    if isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return message


def _joined(content: Any) -> Any:
    """The text of a content that comes in parts; one with other than text parts is left as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = [_part(part) for part in content if isinstance(part, dict)]
    whole = len(texts) == len(content) and all(isinstance(text, str) for text in texts)
    return "".join(str(text) for text in texts) if whole else content


def _part(part: dict[str, Any]) -> Any:
    kind = part.get("type", "text")
    return part.get(kind) if kind in ("text", "refusal") else None


def _call(call: Any) -> Any:
    """A tool call whose arguments are an object, which templates write as JSON themselves."""
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    arguments = call["function"].get("arguments")
    function = {**call["function"], "arguments": {} if arguments in (None, "") else _parsed(arguments)}
    return {"type": "function", **call, "function": function}


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _with_system(system: Any, messages: Any) -> Any:
    if not isinstance(system, str) or not system.strip() or not isinstance(messages, list):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _with_tools(done: dict[str, Any], row: RawRow) -> dict[str, Any]:
    tools = _parsed(row.get("tools"))
    if isinstance(row.get("functions"), list) and not tools:
        tools = [{"type": "function", "function": function} for function in row["functions"]]
    done.pop("functions", None)
    done.pop("tools", None)
    if tools:
        done["tools"] = tools
    return done
