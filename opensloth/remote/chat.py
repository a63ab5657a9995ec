"""`client.chat`: ask a base model, a result or a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from opensloth.remote.errors import Unavailable
from opensloth.remote.sse import messages
from opensloth.remote.transport import Transport

Message = dict[str, Any]


class Chat:
    """`/v1/chat/completions`; the openai package does the same and more with this server's address."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ask(self, model: str, conversation: Sequence[Message] | str, **options: Any) -> str:
        """The whole answer of `model` to a conversation, or to one question.

        `options` are OpenAI's: temperature, top_p, seed, max_tokens, stop, ... The first answer of a model waits for
        its engine to start. Raises Unavailable where no device is free for it.
        """
        return "".join(self.stream(model, conversation, **options))

    def stream(self, model: str, conversation: Sequence[Message] | str, **options: Any) -> Iterator[str]:
        """The answer in pieces, as it comes; raises as `ask`."""
        said = [{"role": "user", "content": conversation}] if isinstance(conversation, str) else list(conversation)
        body = {"model": model, "messages": said, **options, "stream": True}
        # How long a model takes to start is the server's to say.
        patience = httpx.Timeout(None, connect=10.0)
        with self._transport.stream("POST", "/v1/chat/completions", json=body, timeout=patience) as response:
            for message in messages(response.iter_lines()):
                if message.data == "[DONE]":
                    return
                chunk = json.loads(message.data)
                if "error" in chunk:
                    error = chunk["error"]
                    raise Unavailable(str(error.get("message")), code=str(error.get("code") or "error"))
                for choice in chunk["choices"]:
                    if text := choice["delta"].get("content"):
                        yield text
        raise Unavailable("The answer broke off.", code="connection_lost", hint="Ask again.")
