"""Answers in OpenAI's shapes, whole and in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from opensloth.chat.wire import Event, Token


class CompletionUsage(BaseModel):
    """Tokens of prompts and answers; the token that ends an answer counts."""

    completion_tokens: int
    prompt_tokens: int
    total_tokens: int


class TopLogprob(BaseModel):
    """A likely token."""

    token: str
    bytes: list[int] | None
    logprob: float


class TokenLogprob(TopLogprob):
    """A token that was said, and the likeliest at its place."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    """Log probabilities of an answer's tokens."""

    content: list[TokenLogprob] | None
    refusal: list[TokenLogprob] | None = None


class ChatMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: str | None = None


class ChatChoice(BaseModel):
    """One answer and why it ended."""

    index: int
    message: ChatMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletionObject(BaseModel):
    """The answer of `POST /v1/chat/completions`; `created` in seconds since 1970."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    system_fingerprint: str | None


class TextLogprobs(BaseModel):
    """Log probabilities in the older shape; offsets are characters of the text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One text and why it ended."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class CompletionObject(BaseModel):
    """The answer of `POST /v1/completions`; `created` in seconds since 1970."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage
    system_fingerprint: str | None


@dataclass
class Answer:
    """One request's answers as they come; the two routes differ in how they show them."""

    kind: Literal["chat", "text"]
    model: str
    answers: int
    wants_logprobs: bool
    wants_usage: bool = False
    fingerprint: str | None = None
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.kind == "chat" else "cmpl-") + secrets.token_hex(12)
        self._texts = [""] * self.answers
        self._tokens: list[list[Token]] = [[] for _ in range(self.answers)]
        self._offsets: list[list[int]] = [[] for _ in range(self.answers)]
        self._ends: list[Literal["stop", "length"]] = ["stop"] * self.answers
        self._begun = [False] * self.answers

    def take(self, event: Event) -> None:
        """Keep what an event says."""
        if event.prompt_tokens is not None:
            self.prompt_tokens = event.prompt_tokens
        self._offset(event)
        self._texts[event.index] += event.text
        self._tokens[event.index] += event.logprobs
        if event.finish is not None:
            self._ends[event.index] = event.finish
            self.completion_tokens += event.tokens

    def _offset(self, event: Event) -> None:
        at = len(self._texts[event.index])
        for token in event.logprobs:
            self._offsets[event.index].append(at)
            at += len(token.token)

    # Whole

    def whole(self) -> ChatCompletionObject | CompletionObject:
        """All answers, once all of them have ended."""
        common: dict[str, Any] = {
            "id": self.id,
            "created": self.created,
            "model": self.model,
            "usage": self.usage(),
            "system_fingerprint": self.fingerprint,
        }
        if self.kind == "chat":
            chats = [
                ChatChoice(
                    index=index,
                    message=ChatMessage(content=self._texts[index]),
                    logprobs=ChoiceLogprobs(content=_chat(self._tokens[index])) if self.wants_logprobs else None,
                    finish_reason=self._ends[index],
                )
                for index in range(self.answers)
            ]
            return ChatCompletionObject(choices=chats, **common)
        texts = [
            TextChoice(
                index=index,
                text=self._texts[index],
                logprobs=_text(self._tokens[index], self._offsets[index]) if self.wants_logprobs else None,
                finish_reason=self._ends[index],
            )
            for index in range(self.answers)
        ]
        return CompletionObject(choices=texts, **common)

    def usage(self) -> CompletionUsage:
        """Tokens so far."""
        total = self.prompt_tokens + self.completion_tokens
        return CompletionUsage(
            completion_tokens=self.completion_tokens, prompt_tokens=self.prompt_tokens, total_tokens=total
        )

    # In chunks

    def chunks(self, event: Event) -> Iterator[dict[str, Any]]:
        """What a stream sends for an event."""
        before = len(self._offsets[event.index])
        self.take(event)
        if event.prompt_tokens is not None:
            for index in range(self.answers):
                yield from self._begin(index)
        if event.text or event.logprobs:
            yield from self._begin(event.index)
            yield self._chunk(event.index, event.text, event.logprobs, self._offsets[event.index][before:], None)
        if event.finish is not None:
            yield from self._begin(event.index)
            yield self._chunk(event.index, None, [], [], event.finish)
        if event.done and self.wants_usage:
            yield self._frame([]) | {"usage": self.usage().model_dump()}

    def _begin(self, index: int) -> Iterator[dict[str, Any]]:
        if self.kind == "chat" and not self._begun[index]:
            self._begun[index] = True
            delta = {"role": "assistant", "content": "", "refusal": None}
            yield self._frame([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def _chunk(
        self, index: int, text: str | None, tokens: list[Token], offsets: list[int], finish: str | None
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": finish}
        if self.kind == "chat":
            choice["delta"] = {} if text is None else {"content": text}
            if self.wants_logprobs and text is not None:
                choice["logprobs"] = ChoiceLogprobs(content=_chat(tokens)).model_dump()
        else:
            choice["text"] = text or ""
            if self.wants_logprobs and text is not None:
                choice["logprobs"] = _text(tokens, offsets).model_dump()
        return self._frame([choice])

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        frame = {
            "id": self.id,
            "object": "chat.completion.chunk" if self.kind == "chat" else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "system_fingerprint": self.fingerprint,
        }
        return frame | {"usage": None} if self.wants_usage else frame


def _chat(tokens: list[Token]) -> list[TokenLogprob]:
    return [
        TokenLogprob(
            token=token.token,
            bytes=token.bytes,
            logprob=token.logprob,
            top_logprobs=[TopLogprob(token=top.token, bytes=top.bytes, logprob=top.logprob) for top in token.top],
        )
        for token in tokens
    ]


def _text(tokens: list[Token], offsets: list[int]) -> TextLogprobs:
    return TextLogprobs(
        tokens=[token.token for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        # As in OpenAI's: the token itself is among them, if it is one of the likeliest or not.
        top_logprobs=[{top.token: top.logprob for top in (*token.top, token)} for token in tokens],
        text_offset=offsets,
    )
