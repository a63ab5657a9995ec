"""Next-token cross-entropy whose logits exist for some tokens at a time, each computed once.

TRL's chunked loss computes a chunk's logits again for the backward pass. Here the gradient is taken with the loss, as
its scale is known then, so that there is one product less with the head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

CHUNK_TOKENS = 512
"""Tokens that have logits at a time on a GPU."""
CHUNK_TOKENS_CPU = 256
IGNORE = -100


def install() -> None:
    """Puts this loss in the place of TRL's, in this process."""
    from trl.trainer import sft_trainer

    theirs = getattr(sft_trainer, "_chunked_cross_entropy_loss", None)
    if theirs is not None:  # another version of TRL keeps its own
        sft_trainer._chunked_cross_entropy_loss = _in_place_of(theirs)


def _in_place_of(theirs: Any) -> Any:
    if getattr(theirs, "replaces", None) is not None:
        return theirs

    def loss(
        hidden_states: torch.Tensor,
        lm_head_weight: torch.Tensor,
        chunk_size: int,
        labels: torch.Tensor | None = None,
        shift_labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        logit_scale: float = 1.0,
        final_logit_softcapping: float | None = None,
        lm_head_bias: torch.Tensor | None = None,
    ) -> Any:
        """TRL's own where the logits are more than a product."""
        if logit_scale != 1.0 or final_logit_softcapping or lm_head_bias is not None or labels is None:
            return theirs(
                hidden_states,
                lm_head_weight,
                chunk_size,
                labels,
                shift_labels,
                num_items_in_batch,
                logit_scale,
                final_logit_softcapping,
                lm_head_bias,
            )
        return next_token_loss(hidden_states, lm_head_weight, labels, num_items_in_batch)

    loss.replaces = theirs  # type: ignore[attr-defined]
    return loss


def next_token_loss(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, divisor: torch.Tensor | int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, correct tokens, sum of entropies (nats) and trained tokens of a batch.

    `hidden` is of shape (rows, width, hidden), `weight` (vocabulary, hidden), `labels` (rows, width) with -100 where
    nothing is learned. The sum of losses is divided by `divisor`, or by the trained tokens if that is None.
    """
    targets = labels[..., 1:].reshape(-1)
    chosen = (targets != IGNORE).nonzero().squeeze(1)
    rows = hidden[..., :-1, :].reshape(-1, hidden.shape[-1])[chosen]
    count = torch.tensor(len(chosen), device=hidden.device)
    by = count.clamp(min=1) if divisor is None else torch.as_tensor(divisor, device=hidden.device)
    loss, correct, entropy = _HeadLoss.apply(rows, weight, targets[chosen])
    return loss / by, correct, entropy, count


class _HeadLoss(torch.autograd.Function):
    """The sum over rows of `-log softmax(row W^T)[target]`; also correct rows and summed entropies, no gradients."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> Any:
        kind = rows.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype
        zeros = rows.new_zeros(3, dtype=torch.float32)
        to_rows = torch.empty_like(rows, dtype=dtype) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        size = CHUNK_TOKENS if rows.is_cuda else CHUNK_TOKENS_CPU
        with torch.autocast(kind, enabled=False):
            head = weight.to(dtype)
            for start in range(0, len(rows), size):
                some = rows[start : start + size].to(dtype)
                sums, gradient = _chunk(some, head, targets[start : start + size], to_rows is not None)
                zeros += sums
                if gradient is not None and to_rows is not None:
                    torch.mm(gradient, head, out=to_rows[start : start + size])
                if gradient is not None and to_weight is not None:
                    to_weight += gradient.t() @ some
        ctx.save_for_backward(to_rows, to_weight)
        ctx.given, ctx.weight = rows.dtype, weight.dtype
        loss, correct, entropy = zeros.unbind()
        ctx.mark_non_differentiable(correct, entropy)
        return loss.clone(), correct.clone(), entropy.clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor, *_: Any) -> Any:
        to_rows, to_weight = ctx.saved_tensors
        return (
            None if to_rows is None else (to_rows * gradient).to(ctx.given),
            None if to_weight is None else (to_weight * gradient).to(ctx.weight),
            None,
        )


def _chunk(
    rows: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, wanted: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sums of loss, correct rows and entropy, and the gradient by the logits."""
    logits = functional.linear(rows, head).float()
    at = targets[:, None]
    correct = (logits.argmax(-1) == targets).sum()
    total = logits.logsumexp(-1)
    loss = (total - logits.gather(1, at)[:, 0]).sum()
    shares = (logits - total[:, None]).exp_()
    entropy = (total - torch.einsum("rv,rv->r", shares, logits)).sum()
    sums = torch.stack([loss, correct.float(), entropy])
    if not wanted:
        return sums, None
    shares.scatter_add_(1, at, -torch.ones_like(at, dtype=shares.dtype))
    return sums, shares.to(rows.dtype)
