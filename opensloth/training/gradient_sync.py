"""What ranks exchange once per optimizer step: their gradients, and a few numbers that all must agree on.

DDP's own overlap is not used: it fails for losses that run the model twice under gradient checkpointing (DPO with
Unsloth). Gradients are accumulated locally and averaged here, in flat buckets, which works for every method.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist

BUCKET_ELEMENTS = 64 * 2**20
"""Most gradient elements that are copied into one flat buffer (256 MiB in float32)."""


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replaces the gradient of each trained parameter by its mean over all ranks.

    A parameter without a gradient on this rank takes part with zeros, so that all ranks reduce the same layout.
    """
    bucket: list[torch.Tensor] = []
    size = 0
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
        if bucket and (size + gradient.numel() > BUCKET_ELEMENTS or gradient.dtype != bucket[0].dtype):
            _average(bucket)
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        _average(bucket)


def _average(gradients: list[torch.Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    # One kernel for all: one each would take longer to launch than the exchange takes.
    torch._foreach_copy_(gradients, [part.view_as(to) for part, to in zip(parts, gradients, strict=True)])


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """`values` added up over all ranks."""
    dist.all_reduce(values)
    return values


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on some rank; the same answer on all. Without a process group, `flag` itself."""
    if not dist.is_initialized():
        return flag
    return bool(sum_over_ranks(torch.tensor(float(flag), device=device)).item())
