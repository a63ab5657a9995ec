"""Norms and gated activations in one kernel each, which keep their inputs and nothing else for the backward pass."""

from __future__ import annotations

import functools
import importlib.util
from types import MethodType
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

_GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")


def fuse_norms(model: torch.nn.Module) -> int:
    """Gives each norm that is `weight * x / rms(x)` PyTorch's own kernel; returns how many."""
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm") and _is_plain(module)]
    for norm in norms:
        norm.forward = MethodType(_normed, norm)
    return len(norms)


def fuse_gates(model: torch.nn.Module) -> int:
    """Gives each MLP of the form `down(silu(gate(x)) * up(x))` the fused product; returns how many."""
    found = [module for module in model.modules() if all(hasattr(module, name) for name in _GATED)]
    chosen = [mlp for mlp in found if isinstance(mlp.act_fn, torch.nn.SiLU | type(_silu())) and _is_gated(mlp)]
    for mlp in chosen:
        mlp.forward = MethodType(_gated, mlp)
    return len(chosen)


def _silu() -> Any:
    from transformers.activations import ACT2FN

    return ACT2FN["silu"]


def _is_plain(norm: Any) -> bool:
    """Asks the norm itself: others add 1 to the weight, or norm groups."""
    weight, eps = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", None)
    if weight is None or eps is None or weight.ndim != 1 or weight.is_meta:
        return False
    x = torch.linspace(-2, 3, 2 * len(weight), device=weight.device).view(2, -1).to(weight.dtype)
    with torch.no_grad():
        theirs, ours = norm(x), functional.rms_norm(x, weight.shape, weight, eps)
    return bool(torch.allclose(theirs.float(), ours.float(), rtol=0.02, atol=0.01))


def _is_gated(mlp: Any) -> bool:
    """Whether its code is what it looks like: by the name of the class that transformers' Llama and its kin share."""
    return type(mlp).__name__ in ("LlamaMLP", "Qwen2MLP", "Qwen3MLP", "MistralMLP", "SmolLM3MLP")


def _normed(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    if hidden_states.dtype != self.weight.dtype:
        result: torch.Tensor = type(self).forward(self, hidden_states)
        return result
    with torch.autocast(hidden_states.device.type, enabled=False):
        return functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


def _gated(self: Any, x: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = _GatedProduct.apply(self.gate_proj(x), self.up_proj(x))
    down: torch.Tensor = self.down_proj(product)
    return down


class _GatedProduct(torch.autograd.Function):
    """`silu(gate) * up`, elementwise (arXiv:2002.05202, SwiGLU)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        kernels = _kernels() if gate.is_cuda else None
        if kernels is not None:
            return kernels.forward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        gate, up = ctx.saved_tensors
        kernels = _kernels() if gate.is_cuda else None
        if kernels is not None:
            return kernels.backward(gradient, gate, up)
        share = torch.sigmoid(gate)
        to_up = gradient * share * gate
        to_gate = gradient * up * share * (1 + gate * (1 - share))
        return to_gate, to_up


@functools.cache
def _kernels() -> Any:
    """The Triton kernels; None where there is no Triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    from opensloth.training.speed import triton_gate

    return triton_gate
