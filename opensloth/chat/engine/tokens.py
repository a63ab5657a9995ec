"""Prompts to tokens, and tokens back to the text and bytes that log probabilities are told by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from opensloth.chat.engine.answers import Said
from opensloth.chat.engine.templates import Templates
from opensloth.chat.wire import Ask, EngineError, Token

_TEMPLATES = Templates()


class Refused(Exception):
    """The request cannot be answered by this model."""

    def __init__(self, message: str, param: str | None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.error = EngineError(code=code, message=message, param=param)


def encode(ask: Ask, tokenizer: Any) -> list[list[int]]:
    """The tokens of each prompt. Raises Refused, e.g. where a chat template does not take the conversation."""
    if ask.messages is not None:
        return [_conversation(ask.messages, tokenizer)]
    prompts = []
    for number, prompt in enumerate(ask.prompts or []):
        tokens = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
        if not tokens and tokenizer.bos_token_id is not None:
            tokens = [tokenizer.bos_token_id]
        elif not tokens and tokenizer.eos_token_id is not None:
            tokens = [tokenizer.eos_token_id]  # what separates documents is what a new one begins after
        field = "prompt" if len(ask.prompts or []) == 1 else f"prompt[{number}]"
        if not tokens:
            raise Refused("an empty prompt means nothing to this model; give it some text", field)
        if max(tokens) >= len(tokenizer) or min(tokens) < 0:
            raise Refused(f"{field} has tokens that the model does not know; there are {len(tokenizer)}", field)
        prompts.append(tokens)
    return prompts


def _conversation(messages: Sequence[dict[str, Any]], tokenizer: Any) -> list[int]:
    if not tokenizer.chat_template:
        text = "the model has no chat template, so that it cannot take messages; use /v1/completions"
        raise Refused(text, "messages", "no_chat_template")
    try:
        text = _TEMPLATES.render(tokenizer, messages)
    except ValueError as error:
        raise Refused(f"the model's chat template does not take these messages: {error}", "messages") from error
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens


def told(said: Said, tokenizer: Any) -> Token:
    """A token that was said, as log probabilities show it."""
    chosen = said.chosen
    top = [_token(tokenizer, number, logprob) for number, logprob in chosen.top]
    return _token(tokenizer, chosen.token, chosen.logprob or 0.0).model_copy(update={"top": top})


def _token(tokenizer: Any, number: int, logprob: float) -> Token:
    raw = _bytes(tokenizer, number)
    # JSON has no minus infinity; OpenAI writes this number for what is as good as impossible.
    return Token(token=raw.decode("utf-8", "replace"), bytes=list(raw), logprob=max(logprob, -9999.0))


def _bytes(tokenizer: Any, number: int) -> bytes:
    """The bytes that a token stands for; parts of a character have no text of their own."""
    name = tokenizer.convert_ids_to_tokens(number)
    if name is None:
        return b""
    if number in tokenizer.all_special_ids or number in tokenizer.get_added_vocab():
        return str(name).encode()
    if name.startswith("<0x") and name.endswith(">") and len(name) == 6:
        return bytes([int(name[3:5], 16)])
    alphabet = _alphabet()
    if _is_byte_level(tokenizer) and all(character in alphabet for character in name):
        return bytes(alphabet[character] for character in name)
    return str(name).replace("\u2581", " ").encode()


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in str(backend.decoder)


@lru_cache(maxsize=1)
def _alphabet() -> dict[str, int]:
    """The byte behind each character of a byte-level vocabulary (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + number): byte for number, byte in enumerate(rest)}
