"""Chat templates, rendered in a process of little memory and time: `python -m opensloth.chat.engine.templates`.

A template is a program of whoever made the model, and the engine serves others beside. The process reads a JSON line
`{"template", "special", "messages"}` from stdin for each conversation and answers with `{"text"}` or `{"refused"}`.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import IO, Any

from opensloth.datasets.isolated import child_environment

SECONDS = 10.0
MEMORY_BYTES = 2**30
MOST_BYTES = 64 * 2**20
"""Of an answer: far more than any context takes."""


class TemplateFailed(ValueError):
    """The template does not take the conversation, or did not end; the message says which."""


class Templates:
    """One process that renders, started when it is needed and again after it was ended; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, tokenizer: Any, messages: Sequence[dict[str, Any]]) -> str:
        """The text that asks the model of `tokenizer` for its answer; raises TemplateFailed."""
        template = tokenizer.get_chat_template()
        ask = {"template": template, "special": tokenizer.special_tokens_map, "messages": list(messages)}
        with self._lock:
            process = self._process if self._process is not None and self._process.poll() is None else self._start()
            answer = _exchange(process, json.dumps(ask).encode() + b"\n")
            if answer is None:
                self.close()
                raise TemplateFailed(f"it did not end within {SECONDS:g} s and {MEMORY_BYTES // 2**20} MiB of memory")
        told = json.loads(answer)
        if "refused" in told:
            raise TemplateFailed(told["refused"])
        return str(told["text"])

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        command = [sys.executable, "-m", "opensloth.chat.engine.templates"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment(), bufsize=0
        )
        # Its start is no part of what a template may take.
        if self._process.stdout is None or _line(self._process.stdout, 60.0) is None:
            raise TemplateFailed("the process that renders it could not be started")
        return self._process


def _exchange(process: subprocess.Popen[bytes], line: bytes) -> bytes | None:
    """The answer to `line`; None where it did not come in time."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        rest = memoryview(line)
        while rest:  # it reads a whole line before it works
            rest = rest[process.stdin.write(rest) or 0 :]
    except BrokenPipeError:
        return None
    return _line(process.stdout, SECONDS)


def _line(pipe: IO[bytes], seconds: float) -> bytes | None:
    until = time.monotonic() + seconds
    pieces: list[bytes] = []
    size = 0
    while not pieces or not pieces[-1].endswith(b"\n"):
        left = until - time.monotonic()
        if left <= 0 or size > MOST_BYTES or not select.select([pipe], [], [], left)[0]:
            return None
        piece = os.read(pipe.fileno(), 1 << 20)
        if not piece:
            return None
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def main() -> None:
    """Answer line by line until stdin ends."""
    from opensloth.datasets.light_tokenizer import environment

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    # The worker's SIGTERM is for the engine, which still answers what it has taken; the end of stdin ends this.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    compiled = lru_cache(maxsize=8)(environment().from_string)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin.buffer:
        ask = json.loads(line)
        signal.alarm(round(SECONDS) + 5)  # should nobody be there any more who would kill it
        try:
            text = compiled(ask["template"]).render(
                **ask["special"], messages=ask["messages"], tools=None, documents=None, add_generation_prompt=True
            )
            answer = json.dumps({"text": text})
        except MemoryError:
            answer = json.dumps({"refused": f"it takes more than {MEMORY_BYTES // 2**20} MiB of memory"})
        except Exception as error:
            answer = json.dumps({"refused": str(error)[:2000] or type(error).__name__})
        signal.alarm(0)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
