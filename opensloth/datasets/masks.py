"""Where in a rendered conversation the assistant speaks, found by rendering it, whatever the chat template does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

Message = dict[str, Any]
Render = Callable[[Sequence[Message], bool], str]
Span = tuple[int, int]

SENTINEL = "\u2e3b\u2e3a\u2e3b"
"""Stands for an answer while the template is asked where it puts it; no template and hardly a text has it."""


def assistant_spans(messages: Sequence[Message], render: Render, end_tokens: Sequence[str]) -> list[tuple[int, Span]]:
    """For each assistant message its index and its span of characters in `render(messages, False)`.

    A span starts after the generation prompt, where the model begins to write, and ends with the token that closes the
    turn, which the model must learn to write; white space that the template adds behind it is left out. `render` takes
    messages and whether to add the generation prompt. `end_tokens` are texts of tokens that may close a turn.
    """
    text = render(messages, False)
    spans: list[tuple[int, Span]] = []
    done = 0
    for index, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        span = _by_prefix(messages, index, render, text) or _by_sentinel(messages, index, render, text, done)
        if span is None:
            continue
        start, end = span
        end = start + len(_closed(text[start:end], end_tokens))
        spans.append((index, (start, end)))
        done = end
    return spans


@dataclass(frozen=True)
class Skeleton:
    """How a template renders a sequence of roles: `pieces` stand around the contents of the messages.

    `spans` are (message, start, contents before start, end, contents before end), in the text of contents of no length.
    """

    pieces: tuple[str, ...]
    spans: tuple[tuple[int, int, int, int, int], ...]

    def place(self, contents: Sequence[str], text: str) -> list[tuple[int, Span]] | None:
        """The spans in `text`, or None if the template did not just put the contents between the pieces."""
        parts = [part for pair in zip(self.pieces, contents, strict=False) for part in pair]
        if "".join(parts) + self.pieces[-1] != text:
            return None
        before = [0, *accumulate(len(content) for content in contents)]
        return [(i, (start + before[n], end + before[m])) for i, start, n, end, m in self.spans]


def skeleton(roles: Sequence[str], render: Render, end_tokens: Sequence[str]) -> Skeleton | None:
    """The skeleton of a conversation with these roles; None for a template that does more than join."""
    marks = [f"\u2e3a{number}\u2e3b" for number in range(len(roles))]
    messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    text = render(messages, False)
    places = [text.find(mark) for mark in marks]
    if -1 in places or places != sorted(places) or any(text.count(mark) > 1 for mark in marks):
        return None
    assistants = [index for index, role in enumerate(roles) if role == "assistant"]
    if any(_by_prefix(messages, index, render, text) is None for index in assistants):
        return None
    ends = [place + len(mark) for place, mark in zip(places, marks, strict=True)]
    pieces = tuple(text[end:place] for end, place in zip([0, *ends], [*places, len(text)], strict=True))
    lengths = [0, *accumulate(map(len, marks))]
    spans = []
    for index, (start, end) in assistant_spans(messages, render, end_tokens):
        n, m = (sum(other <= border for other in ends) for border in (start, end))
        spans.append((index, start - lengths[n], n, end - lengths[m], m))
    return Skeleton(pieces, tuple(spans))


def _by_prefix(messages: Sequence[Message], index: int, render: Render, text: str) -> Span | None:
    """The span of message `index`, for a template that renders each message the same whatever follows."""
    before = render(messages[:index], True) if index else ""
    after = text if index + 1 == len(messages) else render(messages[: index + 1], False)
    if before and len(before) < len(after) and text.startswith(before) and text.startswith(after):
        return len(before), len(after)
    return None


def _by_sentinel(messages: Sequence[Message], index: int, render: Render, text: str, done: int) -> Span | None:
    """The span of message `index` for any template: what changes in the text when the answer is another one.

    Templates that drop the reasoning of earlier turns, or join messages, render no prefix of a conversation as a
    prefix of its text.
    """
    other = [*messages[:index], {**messages[index], "content": SENTINEL}, *messages[index + 1 :]]
    rendered = render(other, False)
    start = common_prefix(text, rendered)
    tail = common_prefix(text[start:][::-1], rendered[start:][::-1])
    end = len(text) - tail
    if start >= end:
        return None
    opening = render(messages[:index], True) if index else ""
    if opening and done <= common_prefix(opening, text) == len(opening) <= start:
        start = len(opening)
    # What the template puts behind the last answer of a conversation is how it closes a turn.
    closing = render([*messages[:index], {**messages[index], "content": SENTINEL}], False).rpartition(SENTINEL)[2]
    return start, end + common_prefix(closing, text[end:])


def _closed(span: str, end_tokens: Sequence[str]) -> str:
    """`span` without the white space behind the token that closes the turn."""
    stripped = span.rstrip()
    return stripped if stripped.endswith(tuple(end_tokens)) else span


def common_prefix(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items (characters, token ids) two sequences share from the start."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return next(i for i in range(length) if first[i] != second[i])
