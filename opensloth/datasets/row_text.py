"""Rows to text: by a model's chat template or as they are, with the spans of characters that are trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opensloth.datasets.bounds import bounded
from opensloth.datasets.masks import Message, Render, Skeleton, Span, assistant_spans, skeleton

PLAIN_KEYS = {"role", "content", "weight"}
MAX_SKELETONS = 4096

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rendered:
    """A row as text, with the spans of characters that are trained on.

    `special` says whether the tokenizer adds its own begin token; a chat template writes it itself.
    """

    text: str
    spans: list[Span]
    special: bool


def render_sft(row: Row, tokenizer: Any, loss_on: str | None) -> Rendered:
    """The text of a row and the spans that `loss_on` names."""
    if row.get("messages") is not None:
        return _conversation(row, [], row["messages"], tokenizer, loss_on or "assistant")
    if row.get("completion") is not None:
        prompt, completion = row.get("prompt"), row["completion"]
        if isinstance(completion, list):
            return _conversation(row, prompt or [], completion, tokenizer, loss_on or "completion")
        text = with_end(f"{prompt or ''}{completion}", tokenizer)
        return Rendered(text, [(0 if loss_on == "all" else len(prompt or ""), len(text))], special=True)
    if row.get("text") is not None:
        if loss_on not in (None, "all"):
            raise ValueError(f"a row with `text` has no {loss_on}; use messages, or loss_on 'all'")
        text = with_end(row["text"], tokenizer)
        return Rendered(text, [(0, len(text))], special=True)
    raise ValueError("a row needs `messages`, `prompt` and `completion`, `text`, or `input_ids`")


def render(tokenizer: Any, messages: Sequence[Message], generation_prompt: bool, options: dict[str, Any]) -> str:
    """The text of a conversation by the tokenizer's chat template; keys without a value are left out.

    Raises ValueError for a message that calls a tool where the template has no form for that.
    """
    clean = [
        {key: value for key, value in message.items() if key == "content" or (value is not None and key != "weight")}
        for message in messages
    ]
    try:
        with bounded():
            text = str(
                tokenizer.apply_chat_template(clean, tokenize=False, add_generation_prompt=generation_prompt, **options)
            )
    except TypeError as error:
        empty = next((n for n, message in enumerate(messages) if message.get("content") is None), None)
        if empty is None:
            raise
        raise _formless(empty) from error
    for number, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            if call["function"]["name"] not in text:
                raise _formless(number)
    return text


def _formless(number: int) -> ValueError:
    return ValueError(
        f"the model's chat template leaves out the tool calls of `messages[{number}]`; write them into `content`, or "
        "train a model whose template has a form for them"
    )


def _conversation(
    row: Row, prompt: Sequence[Message], answer: Sequence[Message], tokenizer: Any, loss_on: str
) -> Rendered:
    messages = [*prompt, *answer]
    options = template_options(row)

    def rendered(part: Sequence[Message], generation_prompt: bool) -> str:
        return render(tokenizer, part, generation_prompt, options)

    text = rendered(messages, False)
    weightless = {i for i, message in enumerate(messages) if message.get("weight") == 0}
    if loss_on == "all" and not weightless:
        return Rendered(text, [(0, len(text))], special=False)
    spans = None if options else _quick_spans(messages, rendered, text, tokenizer)
    if spans is None:
        spans = assistant_spans(messages, rendered, _end_tokens(tokenizer))
    if loss_on == "all":
        return Rendered(text, _between([span for i, span in spans if i in weightless], len(text)), special=False)
    if loss_on == "completion":
        spans = [item for item in spans if item[0] >= len(prompt)] if prompt else spans[-1:]
    return Rendered(text, [span for i, span in spans if i not in weightless], special=False)


_skeletons: dict[tuple[Any, ...], Skeleton | None] = {}


def _quick_spans(
    messages: Sequence[Message], rendered: Render, text: str, tokenizer: Any
) -> list[tuple[int, Span]] | None:
    """The spans by what is known of a conversation with these roles, which saves rendering every beginning of it."""
    plain = all(message.keys() <= PLAIN_KEYS and isinstance(message.get("content"), str) for message in messages)
    if not plain:
        return None
    key = (tokenizer.chat_template, tokenizer.eos_token, *(message["role"] for message in messages))
    if key not in _skeletons:
        if len(_skeletons) >= MAX_SKELETONS:
            _skeletons.clear()
        try:
            _skeletons[key] = skeleton(key[2:], rendered, _end_tokens(tokenizer))
        except Exception:  # a template may refuse such contents; the row itself was rendered all the same
            _skeletons[key] = None
    known = _skeletons[key]
    return known.place([message["content"] for message in messages], text) if known else None


def _between(spans: list[Span], length: int) -> list[Span]:
    """What is left of a text of `length` characters without `spans`, which are in order."""
    borders = [0, *(border for span in spans for border in span), length]
    return [(start, end) for start, end in zip(borders[::2], borders[1::2], strict=True) if start < end]


def template_options(row: Row) -> dict[str, Any]:
    """What the chat template is told of a row beside its messages: its tools, and arguments of the template's own."""
    tools = row.get("tools")
    options = dict(row.get("chat_template_kwargs") or {})
    if tools:
        options["tools"] = json.loads(tools) if isinstance(tools, str) else tools
    return options


def _end_tokens(tokenizer: Any) -> list[str]:
    """Texts of the tokens that may close a turn: every special one."""
    return list(dict.fromkeys([tokenizer.eos_token, *tokenizer.all_special_tokens]))


def with_end(text: str, tokenizer: Any) -> str:
    """`text` with the token that ends it, once."""
    end = tokenizer.eos_token
    return text if end is None or text.endswith(end) else text + end
