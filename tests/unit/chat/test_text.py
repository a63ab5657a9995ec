"""Text as it comes: whole characters, and nothing that a stop text takes back."""

from __future__ import annotations

from typing import Any

import pytest

from opensloth.chat.engine.text import TextStream
from tests.support.tiny_model import make_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def pieces(tokenizer: Any, text: str, stops: list[str]) -> tuple[list[str], TextStream]:
    stream = TextStream(tokenizer, tokenizer("Before: ")["input_ids"], stops)
    given = []
    for token in tokenizer(text)["input_ids"]:
        given.append(stream.push(token))
        if stream.stopped:
            return given, stream
    return [*given, stream.finish()], stream


@pytest.mark.parametrize("text", ["Hello", "grüße 🎉 ok", "日本語", " leading", "a\n\nb"])
def test_the_pieces_make_the_text_and_no_piece_has_half_a_character(tokenizer: Any, text: str) -> None:
    given, _ = pieces(tokenizer, text, [])
    assert "".join(given) == text
    assert not any("\ufffd" in piece for piece in given)


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        ("one END two", ["END"], "one "),
        ("one EN two", ["END"], "one EN two"),
        ("EENDx", ["END"], "E"),
        ("ab", ["b", "ab"], ""),
        ("no stop EN", ["END"], "no stop EN"),
        ("a🎉b", ["🎉"], "a"),
    ],
)
def test_a_stop_text_ends_the_answer_before_it(tokenizer: Any, text: str, stops: list[str], left: str) -> None:
    given, stream = pieces(tokenizer, text, stops)
    assert "".join(given) == left
    assert stream.stopped == (left != text)


def test_half_a_character_at_the_end_is_given_out_as_such(tokenizer: Any) -> None:
    stream = TextStream(tokenizer, [], [])
    tokens = tokenizer("🎉")["input_ids"][:2]
    assert [stream.push(token) for token in tokens] == ["", ""]
    assert stream.finish() == "\ufffd"
