"""LoRA layers in which the frozen product and the adapter's update are one step of autograd.

PEFT keeps copies of the input for each layer in the adapter's precision and passes over each output three times more.
Here the update is added by the matrix product itself, and what is kept for the backward pass is the input as it came
(which layers that share it share) and the product with A, which has r columns.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch.autograd.function import once_differentiable


def fuse_lora(model: torch.nn.Module) -> int:
    """Gives each LoRA layer over a frozen linear layer (16, 32 or 4 bits) the fused product; returns how many."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and _can_fuse(module)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _can_fuse(layer: Any) -> bool:
    base = layer.get_base_layer()
    if type(base) is not torch.nn.Linear and type(base).__name__ != "Linear4bit":
        return False
    return not any(parameter.requires_grad for parameter in base.parameters())


def _forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    name = self.active_adapters[0] if len(self.active_adapters) == 1 else None
    if self.disable_adapters or self.merged or args or kwargs or not _is_plain(self, name):
        result: torch.Tensor = type(self).forward(self, x, *args, **kwargs)
        return result
    product: torch.Tensor = _LoraProduct.apply(
        x, self.lora_A[name].weight, self.lora_B[name].weight, self.get_base_layer(), self.scaling[name]
    )
    return product


def _is_plain(layer: Any, name: str | None) -> bool:
    """Whether the adapter is A and B alone: no dropout, no bias, no variant such as DoRA."""
    return (
        name in layer.lora_A
        and name not in layer.lora_variant
        and layer.lora_B[name].bias is None
        and (isinstance(layer.lora_dropout[name], torch.nn.Identity) or not layer.training)
    )


class _LoraProduct(torch.autograd.Function):
    """`x W^T + bias + scaling x A^T B^T` (arXiv:2106.09685, equation 3) for x of shape (..., inputs)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, base: torch.nn.Linear, scaling: float
    ) -> torch.Tensor:
        dtype = _dtype_of(x)
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            bias = None if base.bias is None else base.bias.to(dtype)
            out = torch.nn.functional.linear(rows, _dense(base, dtype), bias)
            middle = rows @ a.to(dtype).t()
            out.addmm_(middle, b.to(dtype).t(), alpha=scaling)
        ctx.save_for_backward(rows, middle, a, b)
        ctx.base, ctx.scaling, ctx.shape, ctx.given = base, scaling, x.shape, x.dtype
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        rows, middle, a, b = ctx.saved_tensors
        with torch.autocast(rows.device.type, enabled=False):
            gradient = gradient.reshape(-1, gradient.shape[-1]).to(rows.dtype)
            inner = gradient @ b.to(rows.dtype)
            inner *= ctx.scaling
            to_a = (inner.t() @ rows).to(a.dtype) if ctx.needs_input_grad[1] else None
            to_b = (gradient.t() @ middle).to(b.dtype).mul_(ctx.scaling) if ctx.needs_input_grad[2] else None
            to_x = None
            if ctx.needs_input_grad[0]:
                to_x = gradient @ _dense(ctx.base, rows.dtype)
                to_x.addmm_(inner, a.to(rows.dtype))
                to_x = to_x.view(ctx.shape).to(ctx.given)
        return to_x, to_a, to_b, None, None


def _dtype_of(x: torch.Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _dense(base: torch.nn.Linear, dtype: torch.dtype) -> torch.Tensor:
    """The frozen weight, of shape (outputs, inputs)."""
    state = getattr(base.weight, "quant_state", None)
    if state is None:
        return base.weight.to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    weight: torch.Tensor = dequantize_4bit(base.weight.data, state).to(dtype)
    return weight
