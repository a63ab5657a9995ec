"""What API and engine say to each other: one request a connection, JSON objects a line, over TCP.

The client sends `{"token": SECRET, "ask": Ask}`; the engine answers with lines of `Event`, the last one `done` or
`error`. Who closes the connection before takes the request back.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

LINE_BYTES = 32 << 20
"""The longest line."""

RETRYABLE = frozenset({"engine_stopping", "engine_lost"})
"""Codes of errors after which another engine may answer the same request."""


class SamplingAsk(BaseModel):
    """How tokens are chosen, in OpenAI's words."""

    model_config = ConfigDict(frozen=True)

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    logprobs: int | None = None


class Ask(BaseModel):
    """One request: a conversation, or prompts of text or tokens to go on from."""

    messages: list[dict[str, Any]] | None = None
    prompts: list[str | list[int]] | None = None
    adapter: str | None = None
    """Storage key of the adapter; None: the base itself."""
    n: int = 1
    """Answers to each prompt."""
    max_tokens: int | None = None
    """None: as many as the context has room for."""
    stop: list[str] = []
    echo: bool = False
    """The prompt's text comes before the answer's."""
    sampling: SamplingAsk = SamplingAsk()


class Token(BaseModel):
    """A token with its log probability, and those of the likeliest at its place."""

    token: str
    bytes: list[int] | None = None
    logprob: float
    top: list[Token] = []


class EngineError(BaseModel):
    """Why there is no (further) answer; `param` is the field at fault."""

    code: str
    message: str
    param: str | None = None


class Event(BaseModel):
    """One line of an answer."""

    prompt_tokens: int | None = None
    """Comes first, once the request is accepted."""
    index: int = 0
    """Which answer the rest of the line belongs to."""
    text: str = ""
    logprobs: list[Token] = []
    finish: Literal["stop", "length"] | None = None
    tokens: int = 0
    """With `finish`: tokens generated in all, the one that ended the answer included."""
    error: EngineError | None = None
    done: bool = False
