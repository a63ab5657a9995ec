"""Server-sent events as the HTML standard defines them, from lines to messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """One event of a stream; `id` is the last id seen, which survives events without one."""

    event: str
    data: str
    id: str | None


def messages(lines: Iterable[str]) -> Iterator[Message]:
    """The messages in the lines of a stream; one that is cut off by the end of the stream is not a message."""
    event = "message"
    chunks: list[str] = []
    last_id: str | None = None
    for line in lines:
        if not line:
            if chunks:
                yield Message(event, "\n".join(chunks), last_id)
            event, chunks = "message", []
            continue
        if line.startswith(":"):
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            chunks.append(value)
        elif name == "id":
            last_id = value
