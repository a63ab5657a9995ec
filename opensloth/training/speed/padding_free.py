"""The layers of a model run over the tokens alone: no padding, no dense mask, each sample attending to itself.

Batches come as every trainer makes them: rows padded on either side with an attention mask, or packed rows whose
positions start anew at each sample. Around the layers they become one row of all tokens with the samples' boundaries
(`cu_seq_lens`), for which attention is a variable-length kernel on a GPU and one call a sample elsewhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from types import MethodType
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

logger = logging.getLogger(__name__)

NAME = "opensloth_varlen"
TOLERANCE = 0.05
"""Relative difference of logits with and without padding: 16-bit arithmetic stays far below it."""
_UNCHANGED = ("output_hidden_states", "output_attentions", "output_router_logits")
_LARGEST_HEAD = 256
_flat = False
"""Whether the batch that is being computed is one row of samples, which needs no mask."""


def drop_padding(model: Any) -> bool:
    """Runs the layers of a causal language model without padding; False where the model cannot, and is left alone."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner = getattr(causal, "base_model", None)
    if inner is None or inner is causal or not _has_plain_attention(causal.config):
        return False
    before = _probe(causal)
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _mask)
    previous = causal.config._attn_implementation
    causal.set_attn_implementation(NAME)
    inner.forward = MethodType(_forward, inner)
    try:
        after = _probe(causal)
        why = None if bool((after - before).norm() <= TOLERANCE * before.norm()) else "it computes something else"
    except (RuntimeError, TypeError, ValueError) as error:  # no kernel for this GPU or these heads, or no such options
        why = str(error)[:300]
    if why is None:
        return True
    logger.warning("the batches of this model stay padded: %s", why)
    del inner.forward
    causal.set_attn_implementation(previous)
    return False


def _has_plain_attention(config: Any) -> bool:
    """Whether every layer attends to all earlier tokens, by scaled dot products alone."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    special = ("sliding_window", "attn_logit_softcapping", "attention_chunk_size")
    return (
        config._attn_implementation == "sdpa"
        and kinds == {"full_attention"}
        and not any(getattr(config, name, None) for name in special)
    )


def _probe(causal: Any) -> torch.Tensor:
    """The logits of two short rows, the second one padded."""
    device = causal.get_input_embeddings().weight.device
    size = min(causal.config.vocab_size, 1000)
    ids = torch.randint(size, (2, 12), generator=torch.Generator().manual_seed(0)).to(device)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    training = causal.training
    causal.eval()
    try:
        with torch.no_grad():
            logits = causal(input_ids=ids, attention_mask=mask, use_cache=False).logits
    finally:
        causal.train(training)
    return logits[mask.bool()].float()


@dataclass(frozen=True)
class _Layout:
    """Where the tokens of a batch of shape (rows, width) are; `kept` is None where all are."""

    shape: tuple[int, int]
    kept: torch.Tensor | None
    positions: torch.Tensor
    starts: torch.Tensor
    longest: int


def _forward(
    self: Any,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    past_key_values: Any = None,
    inputs_embeds: torch.Tensor | None = None,
    use_cache: bool | None = None,
    **kwargs: Any,
) -> Any:
    """The model's own forward, over the tokens alone where it is a whole batch without a cache."""
    global _flat
    layout = None
    whole = past_key_values is None and not use_cache and (use_cache is False or self.training)
    if input_ids is not None and whole and not _is_asked_for_more(self.config, kwargs):
        layout = _layout(input_ids, attention_mask, position_ids)
    own = type(self).forward
    if layout is None or input_ids is None:
        return own(
            self,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
    flat = input_ids.reshape(-1)
    flat = flat if layout.kept is None else flat[layout.kept]
    _flat = True
    try:
        outputs = own(
            self,
            input_ids=flat[None],
            position_ids=layout.positions[None],
            use_cache=False,
            cu_seq_lens_q=layout.starts,
            cu_seq_lens_k=layout.starts,
            max_length_q=layout.longest,
            max_length_k=layout.longest,
            **kwargs,
        )
    finally:
        _flat = False
    hidden = outputs.last_hidden_state[0]
    if layout.kept is not None:
        hidden = hidden.new_zeros(input_ids.numel(), hidden.shape[-1]).index_copy(0, layout.kept, hidden)
    outputs.last_hidden_state = hidden.view(*layout.shape, -1)
    return outputs


def _is_asked_for_more(config: Any, options: dict[str, Any]) -> bool:
    return any(options.get(name) or getattr(config, name, False) for name in _UNCHANGED)


def _layout(ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor | None) -> _Layout | None:
    """None for a batch that needs no other one: rows of one length, or a mask that is no list of tokens."""
    rows, width = ids.shape
    if mask is not None and mask.ndim != 2:
        return None
    if positions is not None:
        positions = positions.expand(rows, width).reshape(-1)
    if mask is None:
        return None if positions is None else _packed(rows, width, positions)
    kept = mask.reshape(-1).nonzero().squeeze(1)
    lengths = mask.ne(0).sum(1)
    # As if there were padding before them: a sample's positions are those that it would have in its row.
    positions = kept % width if positions is None else positions[kept]
    starts = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    return _Layout((rows, width), kept, positions, starts, int(lengths.max()))


def _packed(rows: int, width: int, positions: torch.Tensor) -> _Layout:
    begins = positions.diff(prepend=positions[:1]) != 1
    begins.view(rows, width)[:, 0] = True
    starts = functional.pad(begins.nonzero().squeeze(1), (0, 1), value=rows * width).to(torch.int32)
    return _Layout((rows, width), None, positions, starts, int(starts.diff().max()))


def _mask(*args: Any, **kwargs: Any) -> Any:
    return None if _flat else sdpa_mask(*args, **kwargs)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' SDPA for a padded batch; one row of samples by their boundaries.

    `query` is of shape (1, heads, tokens, size), `key` and `value` may have fewer heads; the result is of shape
    (1, tokens, heads, size).
    """
    if cu_seq_lens_q is None:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if kind == "cuda" and query.dtype != torch.float32 and not dropout and query.shape[-1] <= _LARGEST_HEAD:
        return _by_kernel(query, key, value, cu_seq_lens_q, int(max_length_q or 0), scaling)[None], None
    bounds = cu_seq_lens_q.tolist()
    grouped = query.shape[1] != key.shape[1]
    parts = [
        functional.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
            enable_gqa=grouped,
        )
        for start, end in pairwise(bounds)
        if end > start
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def _by_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, longest: int, scale: float | None
) -> torch.Tensor:
    """FlashAttention-2 as PyTorch has it (arXiv:2307.08691), which `varlen_attn` calls with fewer options."""
    tokens = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    out: torch.Tensor = torch.ops.aten._flash_attention_forward(
        *tokens, starts, starts, longest, longest, 0.0, True, False, scale=scale
    )[0]
    return out
