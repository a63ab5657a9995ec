"""Keys and values of rows that decode together, and the attention over them; no row pays for another's length.

All tokens of a step, one for each decoding row and the chunks of prompts, go through the model as one sequence without
padding; only attention tells them apart. Rows whose length is alike share a bucket (a power of two), so that decoding
attends once for each bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "opensloth_rows"
"""What transformers knows this attention by."""
SHORTEST = 256
"""Tokens of the smallest bucket."""


def longest_row(budget: int) -> int:
    """The most tokens that one row can come to within `budget`, its move to the last bucket included."""
    length = SHORTEST
    while 3 * length <= budget:
        length *= 2
    return length


class Full(Exception):
    """There is no room for one more row of that length."""


@dataclass(eq=False)
class Place:
    """Where a row's keys and values are."""

    bucket: Bucket
    slot: int
    stored: int = 0
    """Tokens that are in."""
    owner: Any = None
    """Whose it is."""


@dataclass(eq=False)
class Bucket:
    """Rows of at most `length` tokens; slots 0 to len(places) - 1 are taken."""

    length: int
    places: list[Place] = field(default_factory=list)
    keys: list[torch.Tensor | None] = field(default_factory=list)
    """For each layer [rows, heads, length, width], made when its first key comes."""
    values: list[torch.Tensor | None] = field(default_factory=list)
    capacity: int = 0

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, slots: Any, positions: Any) -> None:
        """Put one token of several rows, `key` and `value` [rows, heads, width], at (slot, position) of a layer."""
        self._hold(self.keys, layer, key)[slots, :, positions] = key
        self._hold(self.values, layer, value)[slots, :, positions] = value

    def fill(self, layer: int, key: torch.Tensor, value: torch.Tensor, slot: int, start: int) -> None:
        """Put several tokens of one row, `key` and `value` [tokens, heads, width], from position `start` on."""
        end = start + key.shape[0]
        self._hold(self.keys, layer, key)[slot, :, start:end] = key.transpose(0, 1)
        self._hold(self.values, layer, value)[slot, :, start:end] = value.transpose(0, 1)

    def _hold(self, held: list[torch.Tensor | None], layer: int, like: torch.Tensor) -> torch.Tensor:
        held.extend([None] * (layer + 1 - len(held)))
        found = held[layer]
        if found is None or found.shape[0] < self.capacity:
            larger = like.new_zeros((self.capacity, like.shape[1], self.length, like.shape[2]))
            if found is not None:
                larger[: found.shape[0]] = found
            held[layer] = found = larger
        return found


class RowStore:
    """The keys and values of all rows, within `budget` tokens."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.buckets: dict[int, Bucket] = {}

    @property
    def taken(self) -> int:
        """Tokens for which there is memory."""
        return sum(bucket.capacity * bucket.length for bucket in self.buckets.values())

    def add(self, tokens: int) -> Place:
        """A place for a new row of `tokens` tokens and the next one; raises Full."""
        length = SHORTEST
        while length < tokens + 1:
            length *= 2
        bucket = self.buckets.get(length) or Bucket(length)
        if len(bucket.places) == bucket.capacity:
            room = self._room(length)
            if room < 1:
                self._trim()
                room = self._room(length)
            if room < 1:
                raise Full
            bucket.capacity += min(max(1, bucket.capacity), room)
        self.buckets[length] = bucket
        place = Place(bucket, len(bucket.places))
        bucket.places.append(place)
        return place

    def _room(self, length: int) -> int:
        return (self.budget - self.taken) // length

    def _trim(self) -> None:
        """Give back what buckets have beyond their rows: they were fuller once."""
        for bucket in self.buckets.values():
            bucket.capacity = len(bucket.places)
            for held in (bucket.keys, bucket.values):
                held[:] = [tensor if tensor is None else tensor[: bucket.capacity].clone() for tensor in held]

    def grow(self, place: Place) -> None:
        """Make room for one more token in a row that fills its bucket; raises Full."""
        old, slot = place.bucket, place.slot
        if place.stored < old.length:
            return
        new = self.add(place.stored)
        for layer in range(len(old.keys)):
            key, value = old.keys[layer], old.values[layer]
            if key is not None and value is not None:
                length = place.stored
                new.bucket.fill(
                    layer, key[slot, :, :length].transpose(0, 1), value[slot, :, :length].transpose(0, 1), new.slot, 0
                )
        self._leave(old, slot)
        place.bucket, place.slot = new.bucket, new.slot
        new.bucket.places[new.slot] = place

    def remove(self, place: Place) -> None:
        """The row is gone; the last one of its bucket takes its slot."""
        self._leave(place.bucket, place.slot)

    def _leave(self, bucket: Bucket, slot: int) -> None:
        last = bucket.places.pop()
        if last.slot != slot:
            for held in (*bucket.keys, *bucket.values):
                if held is not None:
                    held[slot, :, : last.stored] = held[last.slot, :, : last.stored]
            last.slot = slot
            bucket.places[slot] = last
        if not bucket.places:
            del self.buckets[bucket.length]


class Decoding:
    """Rows of one bucket that get one token each: packed tokens `first` to `first + len(places)`."""

    def __init__(self, places: Sequence[Place], first: int, device: Any) -> None:
        self.bucket = places[0].bucket
        self.tokens = slice(first, first + len(places))
        numbers = [place.slot for place in places]
        self.slots = torch.tensor(numbers, device=device)
        self.positions = torch.tensor([place.stored for place in places], device=device)
        self.dense = numbers == list(range(len(numbers)))
        self.longest = max(place.stored for place in places) + 1
        self._masks: dict[int | None, torch.Tensor] = {}

    def mask(self, window: int | None) -> torch.Tensor:
        """What each row sees: [rows, 1, 1, longest]."""
        if window not in self._masks:
            at = torch.arange(self.longest, device=self.positions.device)
            seen = at <= self.positions[:, None]
            if window is not None:
                seen &= at > self.positions[:, None] - window
            self._masks[window] = seen[:, None, None]
        return self._masks[window]


@dataclass(eq=False)
class Filling:
    """A piece of one row's prompt: packed tokens `first` to `first + count`."""

    place: Place
    first: int
    count: int

    def mask(self, window: int | None, device: Any) -> torch.Tensor | None:
        """What each of its tokens sees: [count, tokens so far]; None: plainly all before it."""
        start, end = self.place.stored, self.place.stored + self.count
        if start == 0 and (window is None or end <= window):
            return None
        mine = torch.arange(start, end, device=device)[:, None]
        at = torch.arange(end, device=device)
        seen = at <= mine
        return seen if window is None else seen & (at > mine - window)


@dataclass(eq=False)
class Step:
    """How the packed tokens of one pass belong to rows."""

    decoding: list[Decoding]
    filling: list[Filling]


_current: Step | None = None
"""Of the pass that runs now; a process runs one at a time."""


def run(step: Step, model: Any, **inputs: Any) -> Any:
    """`model(**inputs)` with attention by `step`."""
    global _current
    _current = step
    try:
        return model(**inputs)
    finally:
        _current = None


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Any = None,
    position_bias: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of transformers' interface: `query` [1, heads, tokens, width]; returns [1, tokens, heads, width].

    Raises ValueError for attention that this cannot do (sinks, learned biases).
    """
    step = _current
    if step is None or s_aux is not None or position_bias is not None:
        raise ValueError("this model's attention is of a kind that the chat engine cannot batch")
    layer, groups = module.layer_idx, query.shape[1] // key.shape[1]
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [tokens, heads, width]
    output = q.new_empty((q.shape[0], q.shape[1], v.shape[2]))
    for part in step.decoding:
        held, n = part.bucket, part.slots.shape[0]
        held.write(layer, k[part.tokens], v[part.tokens], part.slots, part.positions)
        own = slice(0, n) if part.dense else part.slots
        keys, values = _seen(held, layer, own, part.longest)
        # The queries that share a head of keys are its rows: nothing is repeated.
        asked = q[part.tokens].view(n, key.shape[1], groups, -1)
        found = _attention(asked, keys, values, part.mask(sliding_window), scaling, softcap)
        output[part.tokens] = found.reshape(n, q.shape[1], -1)
    for piece in step.filling:
        place, tokens = piece.place, slice(piece.first, piece.first + piece.count)
        end = place.stored + piece.count
        place.bucket.fill(layer, k[tokens], v[tokens], place.slot, place.stored)
        keys, values = _seen(place.bucket, layer, slice(place.slot, place.slot + 1), end)
        keys, values = (tensor.repeat_interleave(groups, 1) if groups > 1 else tensor for tensor in (keys, values))
        asked = q[tokens].transpose(0, 1)[None]
        mask = piece.mask(sliding_window, q.device)
        found = _attention(asked, keys, values, mask, scaling, softcap, causal=mask is None)
        output[tokens] = found[0].transpose(0, 1)
    return output[None], None


def _seen(bucket: Bucket, layer: int, slots: Any, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    key, value = bucket.keys[layer], bucket.values[layer]
    assert key is not None
    assert value is not None
    return key[slots, :, :end], value[slots, :, :end]


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
    causal: bool = False,
) -> torch.Tensor:
    if softcap is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, scale=scaling)
    # Gemma 2's scores, softcap * tanh(scores / softcap): no fused kernel has them.
    scores = query @ key.transpose(2, 3) * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def install() -> str:
    """Make this attention known to transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return NAME
