"""The next token of each row: its own temperature, top_p, top_k, penalties, bias and random numbers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

COLDEST = 1e-6
_FIRST = 256
"""So many of the likeliest tokens are sorted first; nearly always top_p ends among them."""


@dataclass(frozen=True)
class Sampling:
    """What a request may say about it; OpenAI's names and meanings."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    """So many of the likeliest tokens are told for each one; None: nothing is told."""

    @property
    def changes_logits(self) -> bool:
        """Whether the model's scores are not taken as they are."""
        return bool(self.presence_penalty or self.frequency_penalty or self.logit_bias)


class Chooser:
    """One row's sampling, with what it has said so far."""

    def __init__(self, sampling: Sampling, index: int) -> None:
        self.sampling = sampling
        self.said: Counter[int] = Counter()
        # Of several answers to one request each has its own numbers, the same ones for the same seed.
        self.seed = None if sampling.seed is None else sampling.seed + index
        self._random = random.Random(None if sampling.seed is None else f"{sampling.seed}/{index}")

    def uniform(self) -> float:
        """The row's next random number in [0, 1)."""
        return self._random.random()


@dataclass(frozen=True)
class Chosen:
    """A token, and where it was asked its log probability with those of the likeliest (token, log probability)."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: torch.Tensor, rows: Sequence[Chooser]) -> list[Chosen]:
    """A token for each row of `logits` [rows, vocabulary]; log probabilities are the model's own, before any change."""
    logits = logits.float()
    told = _log_probabilities(logits, rows)
    if any(row.sampling.changes_logits for row in rows):
        logits = logits.clone()
        for number, row in enumerate(rows):
            _change(logits[number], row)
    tokens = logits.argmax(-1)
    drawn = [number for number, row in enumerate(rows) if row.sampling.temperature > 0 and row.sampling.top_k != 1]
    if drawn:
        tokens[torch.tensor(drawn, device=logits.device)] = _draw(logits[drawn], [rows[number] for number in drawn])
    chosen = []
    for number, (token, row) in enumerate(zip(tokens.tolist(), rows, strict=True)):
        row.said[token] += 1
        if number not in told:
            chosen.append(Chosen(token))
            continue
        own, values, indices = told[number]
        chosen.append(Chosen(token, float(own[token]), tuple(zip(indices, values, strict=True))))
    return chosen


def _log_probabilities(
    logits: torch.Tensor, rows: Sequence[Chooser]
) -> dict[int, tuple[torch.Tensor, list[float], list[int]]]:
    found = {}
    for number, row in enumerate(rows):
        if row.sampling.logprobs is not None:
            own = logits[number].log_softmax(-1)
            values, indices = own.topk(row.sampling.logprobs)
            found[number] = (own, values.tolist(), indices.tolist())
    return found


def _change(logits: torch.Tensor, row: Chooser) -> None:
    """Subtract the penalties for what was said and add the bias, in place."""
    sampling = row.sampling
    if row.said and (sampling.presence_penalty or sampling.frequency_penalty):
        tokens = torch.tensor(list(row.said), device=logits.device)
        counts = torch.tensor(list(row.said.values()), dtype=logits.dtype, device=logits.device)
        logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    if sampling.logit_bias:
        tokens = torch.tensor(list(sampling.logit_bias), device=logits.device)
        logits[tokens] += torch.tensor(list(sampling.logit_bias.values()), dtype=logits.dtype, device=logits.device)


def _draw(logits: torch.Tensor, rows: Sequence[Chooser]) -> torch.Tensor:
    """By the inverse of the cumulative distribution: one number for each token, whoever else is in the batch."""
    # What is smaller would be 0 among 32 bits, and by this the likeliest token is certain already.
    heat = torch.tensor([max(row.sampling.temperature, COLDEST) for row in rows], device=logits.device)
    # The largest score is taken off first: divided by a tiny temperature it would be infinite.
    logits = logits - logits.max(-1, keepdim=True).values
    probabilities = (logits / heat[:, None]).softmax(-1)
    tokens = torch.empty(len(rows), dtype=torch.long, device=logits.device)
    for number, row in enumerate(rows):
        own = probabilities[number]
        if row.sampling.top_p >= 1 and not row.sampling.top_k:
            tokens[number] = _pick(own, row.uniform())
            continue
        values, indices = _likeliest(own, row.sampling)
        tokens[number] = indices[_pick(values, row.uniform())]
    return tokens


def _likeliest(probabilities: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest set of the likeliest tokens that top_k and top_p leave, with their probabilities."""
    vocabulary = probabilities.shape[0]
    most = min(sampling.top_k or vocabulary, vocabulary)
    count = min(most, _FIRST)
    values, indices = probabilities.topk(count)
    if count < most and float(values.sum()) < sampling.top_p:
        values, indices = probabilities.topk(most)
    before = values.cumsum(0) - values
    # top_p is of what top_k has left.
    kept = before < sampling.top_p * (values.sum() if sampling.top_k else 1.0)
    kept[0] = True
    return values[kept], indices[kept]


def _pick(probabilities: torch.Tensor, uniform: float) -> torch.Tensor:
    total = probabilities.cumsum(0, dtype=torch.float64)
    target = total[-1] * uniform
    return torch.searchsorted(total, target, right=True).clamp_max(probabilities.shape[0] - 1)
