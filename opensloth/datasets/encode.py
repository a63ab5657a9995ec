"""Rows to token ids and labels: one row of a dataset in any of its forms, with what the loss is taken on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from opensloth.datasets.masks import Span, common_prefix
from opensloth.datasets.row_text import Rendered, Row, render, render_sft, template_options, with_end

IGNORE = -100
"""The label of a token that is not trained on."""


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of one row, equally long; the first label is never trained on."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a preference: the prompt, and each answer behind it."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def encode_sft(rows: Sequence[Row], tokenizer: Any, loss_on: str | None) -> list[Encoded]:
    """Encodes rows with `input_ids`, `messages`, `prompt` + `completion` or `text`; in the same order.

    `loss_on` is "assistant" (every assistant turn), "completion" (the last answer), "all", or None, which means
    "completion" for prompt and completion, "assistant" for messages and "all" for text. Raises ValueError for a row
    of no such form, or one where `loss_on` has no meaning.
    """
    encoded: list[Encoded | None] = [_as_given(row, tokenizer) for row in rows]
    rendered = {i: render_sft(rows[i], tokenizer, loss_on) for i, done in enumerate(encoded) if done is None}
    for special in (False, True):
        chosen = {i: text for i, text in rendered.items() if text.special is special}
        for i, done in zip(chosen, _tokenize(list(chosen.values()), tokenizer, special), strict=True):
            encoded[i] = done
    return [done for done in encoded if done is not None]


def encode_dpo(rows: Sequence[Row], tokenizer: Any) -> list[EncodedPair]:
    """Encodes rows with `prompt`, `chosen` and `rejected`, as text or messages; in the same order."""
    encoded = encode_answers(rows, tokenizer, ("chosen", "rejected"))
    return [EncodedPair(prompt, chosen, rejected) for prompt, (chosen, rejected) in encoded]


def encode_answers(
    rows: Sequence[Row], tokenizer: Any, columns: Sequence[str]
) -> list[tuple[list[int], list[list[int]]]]:
    """Token ids of each row's `prompt`, and of each answer to it that `columns` hold, as text or messages.

    Answers start where the tokens of prompt and answer first differ from those of the prompt alone, as in TRL.
    """
    texts: list[str] = []
    special: list[bool] = []
    for row in rows:
        prompt, answers = row["prompt"], [row[column] for column in columns]
        if isinstance(prompt, list):
            options = template_options(row)
            texts.append(render(tokenizer, prompt, True, options))
            texts += [render(tokenizer, [*prompt, *answer], False, options) for answer in answers]
        else:
            texts += [prompt, *(with_end(prompt + answer, tokenizer) for answer in answers)]
        special += [not isinstance(prompt, list)] * (1 + len(columns))
    ids = _ids(texts, special, tokenizer)
    encoded = []
    for first in range(0, len(ids), 1 + len(columns)):
        prompt_ids, *whole = ids[first : first + 1 + len(columns)]
        start = min((common_prefix(prompt_ids, some) for some in whole), default=len(prompt_ids))
        encoded.append((prompt_ids[:start], [some[start:] for some in whole]))
    return encoded


def _as_given(row: Row, tokenizer: Any) -> Encoded | None:
    """A row that is tokenized already; its padding (attention mask 0) is taken out."""
    ids = row.get("input_ids")
    if ids is None:
        return None
    labels = row.get("labels")
    labels = ids if labels is None else labels
    if len(labels) != len(ids):
        raise ValueError(f"`labels` has {len(labels)} tokens and `input_ids` {len(ids)}")
    mask = row.get("attention_mask")
    if mask is not None:
        kept = [i for i, seen in enumerate(mask) if seen]
        ids, labels = [ids[i] for i in kept], [labels[i] for i in kept]
    largest = max((*ids, *labels), default=0)
    known = _largest_id(tokenizer.backend_tokenizer if tokenizer.is_fast else tokenizer)
    if largest > known:  # a GPU that is asked for it fails until its process ends
        raise ValueError(f"there is no token {largest}; the last one of this model's tokenizer is {known}")
    return Encoded(list(ids), [IGNORE, *labels[1:]])


@lru_cache(maxsize=4)
def _largest_id(tokenizer: Any) -> int:
    return int(max(tokenizer.get_vocab().values()))


def _tokenize(rendered: list[Rendered], tokenizer: Any, special: bool) -> list[Encoded]:
    """Token ids and labels; a token is trained on when its last character lies in a span."""
    if not rendered:
        return []
    if not tokenizer.is_fast:
        return [_tokenize_by_segment(text, tokenizer) for text in rendered]
    backend = _backend(tokenizer)
    only_text = not special or not backend.num_special_tokens_to_add(False)
    encoded = []
    for text, found in zip(
        rendered, backend.encode_batch([text.text for text in rendered], add_special_tokens=special), strict=True
    ):
        ids = found.ids
        trained = _trained_slices(text, found, len(ids)) if only_text else None
        labels = _labels(ids, trained) if trained is not None else _labels_by_end(ids, found.offsets, text.spans)
        if special and len(ids) > 1 and ids[-1] == ids[-2] == tokenizer.eos_token_id:
            ids, labels = ids[:-1], labels[:-1]  # the tokenizer added the end token a second time
        encoded.append(Encoded(ids, labels))
    return encoded


def _backend(tokenizer: Any) -> Any:
    """The tokenizer itself, without the wrapper that makes a Python object of each offset; it cuts and pads nothing."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def _trained_slices(text: Rendered, found: Any, tokens: int) -> list[slice] | None:
    """Which tokens end within a span; None where a span's border lies in text that no token stands for."""
    borders = [
        found.char_to_token(border) if border < len(text.text) else tokens for span in text.spans for border in span
    ]
    if None in borders:
        return None
    return [slice(first, last) for first, last in zip(borders[::2], borders[1::2], strict=True)]


def _labels(ids: list[int], trained: Sequence[slice]) -> list[int]:
    labels = [IGNORE] * len(ids)
    for some in trained:
        labels[some] = ids[some]
    labels[:1] = [IGNORE] * len(labels[:1])
    return labels


def _labels_by_end(ids: list[int], offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[int]:
    """As `_labels`, by where each token ends, in characters; those that stand for no text, behind it, end at 0."""
    ends = [last for _, last in offsets]
    if ends == sorted(ends):
        return _labels(ids, [slice(bisect_right(ends, start), bisect_right(ends, end)) for start, end in spans])
    inside = [any(start < last <= end for start, end in spans) for last in ends]
    return [
        IGNORE if not i or not trained else token for i, (token, trained) in enumerate(zip(ids, inside, strict=True))
    ]


def _tokenize_by_segment(rendered: Rendered, tokenizer: Any) -> Encoded:
    """For a tokenizer that knows no offsets: the text is cut at the borders of its spans."""
    ids: list[int] = []
    labels: list[int] = []
    borders = [0, *(border for span in rendered.spans for border in span), len(rendered.text)]
    for i, (start, end) in enumerate(pairwise(borders)):
        part = tokenizer(rendered.text[start:end], add_special_tokens=rendered.special and i == 0)["input_ids"]
        ids += part
        labels += part if i % 2 else [IGNORE] * len(part)
    return Encoded(ids, [IGNORE, *labels[1:]])


def _ids(texts: list[str], special: list[bool], tokenizer: Any) -> list[list[int]]:
    """Token ids of each text; `special` says for which the tokenizer adds its own begin token."""
    ids: list[list[int]] = [[] for _ in texts]
    for flag in (False, True):
        places = [i for i, wanted in enumerate(special) if wanted is flag]
        if not places:
            continue
        for i, found in zip(places, _plain_ids([texts[i] for i in places], flag, tokenizer), strict=True):
            ids[i] = found
    return ids


def _plain_ids(texts: list[str], special: bool, tokenizer: Any) -> list[list[int]]:
    if not tokenizer.is_fast:
        batch = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
        return [list(found) for found in batch["input_ids"]]
    return [found.ids for found in _backend(tokenizer).encode_batch_fast(texts, add_special_tokens=special)]
