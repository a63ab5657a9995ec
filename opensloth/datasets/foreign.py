"""Checks of rows as other tools write them: Alpaca, ShareGPT, OpenAI's chat and preference rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from opensloth.datasets.convert import shared_start, to_answer, to_messages
from opensloth.datasets.messages import Problem, answer, kind, open_conversation, text_problem, whole_conversation

Row = Mapping[str, Any]
SHAREGPT_KEYS = ("from", "value")


def check_chat(row: Row) -> Problem | None:
    """`messages`: one whole conversation, with optional `tools`; a `weight` of 0 keeps an answer out of the loss."""
    messages = to_messages(row.get("messages"))
    problem = whole_conversation(messages, "messages") or check_tools(row) or check_parallel(row)
    return problem or _all_weightless(messages, "messages")


def check_open_chat(row: Row) -> Problem | None:
    """`messages` that wait for an answer, with optional `tools`; what other columns there are is for the rewards."""
    problem = open_conversation(to_messages(row.get("messages")), "messages")
    return problem or check_tools(row) or check_parallel(row)


def waits_for_answer(row: Row) -> bool:
    """Whether the last of `messages` is not the assistant's."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return False
    return messages[-1].get("role") != "assistant"


def check_sharegpt(row: Row) -> Problem | None:
    """`conversations`: one whole conversation."""
    given = row.get("conversations")
    messages = to_messages(given)
    problem = whole_conversation(messages, "conversations", _keys(given)) or _system(row) or check_tools(row)
    return problem or _all_weightless(messages, "conversations")


def check_alpaca(row: Row) -> Problem | None:
    """`instruction` and `output`, and optionally `input` and `system`."""
    problem = text_problem(row.get("instruction"), "instruction") or text_problem(row.get("output"), "output")
    return problem or _optional_text(row.get("input"), "input") or _system(row)


def check_openai_preference(row: Row) -> Problem | None:
    """`input.messages`, and two answers to it that differ."""
    given = row.get("input")
    if not isinstance(given, dict):
        return Problem("input", f"`input` must be an object with `messages` and is {kind(given)}")
    problem = open_conversation(to_messages(given.get("messages")), "input.messages") or check_tools(given, "input.")
    problem = problem or check_parallel(given, "input.")
    return problem or _two_answers(row, "preferred_output", "non_preferred_output")


def check_sharegpt_preference(row: Row) -> Problem | None:
    """`conversations` that wait for an answer, and two answers that differ."""
    given = row.get("conversations")
    problem = open_conversation(to_messages(given), "conversations", _keys(given)) or _system(row) or check_tools(row)
    return problem or _two_answers(row, "chosen", "rejected")


def check_whole_preference(row: Row) -> Problem | None:
    """`chosen` and `rejected` as whole conversations that begin alike and end with different answers."""
    chosen, rejected = to_messages(row.get("chosen")), to_messages(row.get("rejected"))
    problem = whole_conversation(chosen, "chosen", _keys(row.get("chosen")))
    problem = problem or whole_conversation(rejected, "rejected", _keys(row.get("rejected"))) or check_tools(row)
    if problem:
        return problem
    if chosen == rejected:
        return identical("chosen", "rejected")
    start = shared_start(chosen, rejected)
    if not start or open_conversation(chosen[:start], "chosen"):
        return Problem("rejected", "`chosen` and `rejected` must begin with the same conversation, up to the answer")
    for column, rest in (("chosen", chosen[start:]), ("rejected", rejected[start:])):
        if answer(rest, column):
            where = f"message {start + 1} of `{column}`"
            return Problem(column, f"{where} must be the assistant's: the two may differ only in answers")
    return None


def is_whole_conversation(row: Row) -> bool:
    """Whether `chosen` is a conversation and not only an answer."""
    chosen = row.get("chosen")
    if not isinstance(chosen, list) or not chosen or not isinstance(chosen[0], dict):
        return False
    return (chosen[0].get("role") or chosen[0].get("from")) not in ("assistant", "gpt")


def is_openai_input(row: Row) -> bool:
    """Whether `input` is OpenAI's object and not, as in Alpaca, a text."""
    return not isinstance(row.get("input"), str)


def identical(chosen: str, rejected: str) -> Problem:
    """The problem of two answers that are the same."""
    return Problem(rejected, f"`{chosen}` and `{rejected}` are identical, which teaches nothing; remove the row")


def check_tools(row: Row, place: str = "") -> Problem | None:
    """`tools`: a list of objects, or that list as JSON text."""
    tools = row.get("tools")
    if isinstance(tools, str):
        if not tools.strip():
            return None
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            return Problem(f"{place}tools", f"`{place}tools` is text that is not JSON; write a list of tools")
    if tools is None or (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        return None
    return Problem(f"{place}tools", f"`{place}tools` must be a list of objects")


def check_parallel(row: Row, place: str = "") -> Problem | None:
    """`parallel_tool_calls`, which says how the row's calls were made: true or false."""
    value = row.get("parallel_tool_calls")
    if value is None or isinstance(value, bool):
        return None
    name = f"{place}parallel_tool_calls"
    return Problem(name, f"`{name}` must be true or false and is {kind(value)}")


def _two_answers(row: Row, first: str, second: str) -> Problem | None:
    chosen, rejected = to_answer(row.get(first)), to_answer(row.get(second))
    problem = answer(chosen, first) or answer(rejected, second)
    if problem is None and chosen == rejected:
        return identical(first, second)
    return problem


def _all_weightless(messages: list[dict[str, Any]], column: str) -> Problem | None:
    answers = [message for message in messages if message["role"] == "assistant"]
    if all(message.get("weight", 1) == 0 for message in answers):
        return Problem(column, "every answer has weight 0, so that nothing of this row is trained on; remove the row")
    return None


def _keys(given: object) -> tuple[str, str]:
    """What role and content are called in a conversation, for messages about it."""
    first = given[0] if isinstance(given, list) and given else None
    return SHAREGPT_KEYS if isinstance(first, dict) and "from" in first else ("role", "content")


def _system(row: Row) -> Problem | None:
    return _optional_text(row.get("system"), "system")


def _optional_text(value: object, column: str) -> Problem | None:
    return None if value is None or (isinstance(value, str) and not value.strip()) else text_problem(value, column)
