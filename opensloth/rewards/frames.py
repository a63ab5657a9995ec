"""Messages between a trainer and its reward helper: a length of 8 bytes, then JSON."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

LENGTH = 8
CHUNK = 65_536


class Closed(Exception):
    """The other side is gone."""


class Late(Exception):
    """The deadline passed first."""


def pack(message: dict[str, Any]) -> bytes:
    """A frame; what is no JSON (dates, arrays) goes as text."""
    body = json.dumps(message, default=_plain).encode()
    return len(body).to_bytes(LENGTH, "big") + body


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def send(descriptor: int, frame: bytes, deadline: float) -> None:
    """Write a frame to a non-blocking descriptor before `deadline` (time.monotonic()); raises Late or Closed."""
    rest = memoryview(frame)
    while rest:
        _wait(descriptor, select.POLLOUT, deadline)
        try:
            rest = rest[os.write(descriptor, rest[:CHUNK]) :]
        except BlockingIOError:
            continue
        except BrokenPipeError:
            raise Closed from None


def receive(descriptor: int, deadline: float) -> dict[str, Any]:
    """The next message from a non-blocking descriptor; raises Late or Closed."""
    size = int.from_bytes(_read(descriptor, LENGTH, deadline), "big")
    message: dict[str, Any] = json.loads(_read(descriptor, size, deadline))
    return message


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        _wait(descriptor, select.POLLIN, deadline)
        try:
            chunk = os.read(descriptor, min(CHUNK, size - len(parts)))
        except BlockingIOError:
            continue
        if not chunk:
            raise Closed
        parts += chunk
    return bytes(parts)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    left = deadline - time.monotonic()
    poll = select.poll()
    poll.register(descriptor, event)
    if left <= 0 or not poll.poll(left * 1000):
        raise Late
