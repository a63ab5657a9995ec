"""From tokens to text as they come: whole characters only, and nothing that a stop string may still take back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CONTEXT = 6
"""Tokens before the answer that are decoded with its first ones: they decide about a leading space."""
_HALF = "\ufffd"
"""What a part of a character decodes to."""


class TextStream:
    """The text of one answer."""

    def __init__(self, tokenizer: Any, before: Sequence[int], stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._tokens = list(before[-_CONTEXT:])
        self._from, self._read = 0, len(self._tokens)
        self._held = ""
        self.decoded = 0
        """Characters decoded so far, those held back too."""
        self.given = 0
        """Characters given out."""
        self.stopped = False
        """A stop string was met; the text ends before it."""

    def push(self, token: int) -> str:
        """Take the next token; returns what is certain now."""
        self._tokens.append(token)
        return self._give(self._new(final=False), final=False)

    def finish(self) -> str:
        """The rest, once no more tokens come."""
        return "" if self.stopped else self._give(self._new(final=True), final=True)

    def _new(self, final: bool) -> str:
        """What the latest tokens add. Decoded together with those before them: some tokens mean nothing alone."""
        before = self._decode(self._tokens[self._from : self._read])
        now = self._decode(self._tokens[self._from :])
        if len(now) <= len(before) or (now.endswith(_HALF) and not final):
            return ""
        self._from, self._read = self._read, len(self._tokens)
        return now[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _give(self, new: str, final: bool) -> str:
        self.decoded += len(new)
        text = self._held + new
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped, self._held = True, ""
            text = text[: min(ends)]
        else:
            keep = 0 if final else max((_overlap(text, stop) for stop in self._stops), default=0)
            text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        self.given += len(text)
        return text


class Silent(TextStream):
    """No text: for a row that nobody reads."""

    def __init__(self) -> None:
        super().__init__(None, [], [])

    def _decode(self, tokens: list[int]) -> str:
        return ""


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` with which `stop` begins."""
    most = min(len(text), len(stop) - 1)
    return next((length for length in range(most, 0, -1) if stop.startswith(text[-length:])), 0)
