"""One answer in the making: what it needs of the model, what it has said, and what is told of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from opensloth.chat.engine import rows as kv
from opensloth.chat.engine.lora import read_adapter
from opensloth.chat.engine.sampling import Chooser, Chosen
from opensloth.chat.engine.text import TextStream

Finish = Literal["stop", "length"]
Weights = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(eq=False)
class AdapterRef:
    """An adapter that a row needs; read ahead of its turn where possible."""

    key: str
    folder: Path
    weights: Weights | None = None

    def read(self) -> Weights:
        """Its matrices; raises OSError, Unusable."""
        if self.weights is None:
            self.weights = read_adapter(self.folder)
        return self.weights


@dataclass(frozen=True)
class Said:
    """One token that was said: what it is, and where it begins in the text."""

    chosen: Chosen
    at: int


@dataclass(frozen=True)
class Piece:
    """What is new of one answer; `finish` or `error` (a code and a message) come with the last one."""

    text: str = ""
    said: tuple[Said, ...] = ()
    finish: Finish | None = None
    error: tuple[str, str] | None = None
    tokens: int = 0
    """Tokens generated in all, told with the last piece."""


@dataclass(eq=False)
class Row:
    """One answer in the making."""

    tokens: list[int]
    """The prompt and what was said so far."""
    most: int
    """Tokens that it may say."""
    chooser: Chooser
    text: TextStream
    tell: Callable[[Piece], None]
    """Called with each piece by the decoder's thread; must not block."""
    eos: frozenset[int] = frozenset()
    """Tokens that end it."""
    adapter: AdapterRef | None = None
    prompt: int = 0
    place: kv.Place | None = None
    slot: int | None = None
    held: deque[Said] = field(default_factory=deque)
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)

    @property
    def spoken(self) -> int:
        """Tokens that it has said."""
        return len(self.tokens) - self.prompt

    def say(self, chosen: Chosen) -> Piece | None:
        """The next token is this one: what follows for the answer, the end of it included; None if nothing yet."""
        self.tokens.append(chosen.token)
        if chosen.token in self.eos:
            return self.end("stop")
        self.held.append(Said(chosen, self.text.decoded))
        text = self.text.push(chosen.token)
        if self.text.stopped:
            return Piece(text, self._given(all_of_it=False), "stop", tokens=self.spoken)
        if self.spoken >= self.most:
            return self.end("length", text)
        said = self._given(all_of_it=False)
        return Piece(text, said) if text or said else None

    def end(self, finish: Finish, text: str = "") -> Piece:
        """The last piece, with all that was held back."""
        text += self.text.finish()
        if self.text.stopped:
            finish = "stop"
        return Piece(text, self._given(all_of_it=not self.text.stopped), finish, tokens=self.spoken)

    def _given(self, *, all_of_it: bool) -> tuple[Said, ...]:
        """The tokens whose text has been given out."""
        given = []
        while self.held and (all_of_it or self.held[0].at < self.text.given):
            given.append(self.held.popleft())
        return tuple(given)
