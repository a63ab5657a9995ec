"""The gated product of an MLP and its gradients as Triton kernels, computed in 32 bits."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]

_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(gate, up, out, size, block: tl.constexpr) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < size
    g = tl.load(gate + at, mask=inside).to(tl.float32)
    u = tl.load(up + at, mask=inside).to(tl.float32)
    tl.store(out + at, (g * tl.sigmoid(g) * u).to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(gradient, gate, up, to_gate, to_up, size, block: tl.constexpr) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < size
    d = tl.load(gradient + at, mask=inside).to(tl.float32)
    g = tl.load(gate + at, mask=inside).to(tl.float32)
    u = tl.load(up + at, mask=inside).to(tl.float32)
    share = tl.sigmoid(g)
    tl.store(to_up + at, (d * g * share).to(to_up.dtype.element_ty), mask=inside)
    tl.store(to_gate + at, (d * u * share * (1 + g * (1 - share))).to(to_gate.dtype.element_ty), mask=inside)


def forward(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`; both of one shape and contiguous or made so."""
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    _forward_kernel[(triton.cdiv(out.numel(), _BLOCK),)](gate, up, out, out.numel(), _BLOCK)
    return out


def backward(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of `gate` and `up`."""
    gradient, gate, up = gradient.contiguous(), gate.contiguous(), up.contiguous()
    to_gate, to_up = torch.empty_like(gate), torch.empty_like(up)
    grid = (triton.cdiv(gate.numel(), _BLOCK),)
    _backward_kernel[grid](gradient, gate, up, to_gate, to_up, gate.numel(), _BLOCK)
    return to_gate, to_up
