"""Adapters of one base side by side: each packed token gets the change of its own row's adapter, in two products.

The A matrices of all adapters lie stacked in one matrix, the B matrices in another. A token's product with all of A is
set to zero outside its own adapter's block before the product with B, so that the number of operations of a step does
not grow with the number of adapters (for LoRA: arXiv:2106.09685; for many at once: arXiv:2311.03285).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST = 32
"""Adapters that stay loaded; those used longest ago go first."""
_PREFIX = "base_model.model."


class Unusable(ValueError):
    """This adapter is not one that the engine can switch to."""


class _Layer:
    """The adapters of one linear layer: `a` [slots, rank, inputs] and `b` [slots, rank, outputs], scaled."""

    def __init__(self, module: Any) -> None:
        self.a: torch.Tensor | None = None
        self.b: torch.Tensor | None = None
        self.handle = module

    def put(self, slot: int, a: torch.Tensor, b: torch.Tensor) -> None:
        """Keep an adapter's matrices; a larger rank or slot number than before makes room first."""
        self.a, self.b = _room(self.a, slot, a), _room(self.b, slot, b)
        self.clear(slot)
        self.a[slot, : a.shape[0]] = a
        self.b[slot, : b.shape[0]] = b

    def clear(self, slot: int) -> None:
        """Forget what was at `slot`."""
        for held in (self.a, self.b):
            if held is not None and slot < held.shape[0]:
                held[slot] = 0


def _room(held: torch.Tensor | None, slot: int, new: torch.Tensor) -> torch.Tensor:
    slots, rank = (0, 0) if held is None else held.shape[:2]
    if held is not None and slot < slots and new.shape[0] <= rank:
        return held
    wanted = max(slots, slot + 1 if slot < 4 else 2 * slot)
    larger = new.new_zeros((wanted, max(rank, new.shape[0]), new.shape[1]))
    if held is not None:
        larger[:slots, :rank] = held
    return larger


class Adapters:
    """Loads adapters into slots and says for each pass which token uses which."""

    def __init__(self, model: Any, most: int = MOST) -> None:
        self._modules = dict(model.named_modules())
        self._layers: dict[str, _Layer] = {}
        self._slots: dict[str, int] = {}
        """Slot by key, those used longest ago first."""
        self._most = most
        self._low = self._high = 0
        self._mask: torch.Tensor | None = None
        """[tokens, slots between low and high, 1], true where the slot is not the token's; None: every token uses the
        slot `low`, or none if high is low."""
        self._dtype, self._device = model.dtype, model.device

    def knows(self, key: str) -> bool:
        """Whether the adapter is loaded; for any thread, and true for the moment."""
        return key in self._slots

    def slot(self, key: str) -> int | None:
        """Where the adapter is, if it is loaded; it counts as used now."""
        if key not in self._slots:
            return None
        self._slots[key] = self._slots.pop(key)
        return self._slots[key]

    def put(self, key: str, weights: Mapping[str, tuple[torch.Tensor, torch.Tensor]], busy: set[int]) -> int:
        """Keep what `read_adapter` gave under `key`; returns its slot. Slots in `busy` are left alone."""
        if (known := self.slot(key)) is not None:
            return known
        for name, (a, b) in weights.items():
            module = self._modules.get(name)
            if module is None or not hasattr(module, "weight") or module.weight.dim() != 2:
                raise Unusable(f"the base has no layer {name} that the adapter could change")
            inputs, outputs = _sizes(module)
            if a.shape[1] != inputs or b.shape[1] != outputs:
                raise Unusable(f"the adapter's layer {name} is of another size than the base's")
        weights = {name: (self._own(name, a), self._own(name, b)) for name, (a, b) in weights.items()}
        slot = self._free(busy)
        for layer in self._layers.values():
            layer.clear(slot)
        for name, (a, b) in weights.items():
            if name not in self._layers:
                self._layers[name] = layer = _Layer(self._modules[name])
                self._modules[name].register_forward_hook(self._hook(layer))
            self._layers[name].put(slot, a, b)
        self._slots[key] = slot
        return slot

    def _own(self, name: str, matrix: torch.Tensor) -> torch.Tensor:
        """The matrix as the model computes; raises Unusable for NaN and infinity."""
        own = matrix.to(self._device, self._dtype)
        if not torch.isfinite(own).all():
            # In one product with those of all others they would be in everybody's sums.
            raise Unusable(f"the adapter has NaN or infinity among the numbers of its layer {name}")
        return own

    def _free(self, busy: set[int]) -> int:
        if len(self._slots) >= self._most:
            idle = next((key for key, slot in self._slots.items() if slot not in busy), None)
            if idle is not None:
                return self._slots.pop(idle)
        taken = set(self._slots.values())
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def use(self, slots: Sequence[int | None]) -> None:
        """Say for each packed token of the next pass which slot it uses, None for the bare base."""
        used = {slot for slot in slots if slot is not None}
        self._low, self._high = (min(used), max(used) + 1) if used else (0, 0)
        self._mask = None
        if used and (len(used) > 1 or None in slots):
            numbers = torch.tensor([-1 if slot is None else slot for slot in slots], device=self._device)
            others = numbers[:, None] != torch.arange(self._low, self._high, device=self._device)
            self._mask = others[:, :, None]

    def _hook(self, layer: _Layer) -> Any:
        def add(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            low, high, mask = self._low, self._high, self._mask
            if low == high or layer.a is None or layer.b is None or low >= layer.a.shape[0]:
                return None
            a, b = layer.a[low:high].flatten(0, 1), layer.b[low:high].flatten(0, 1)
            x = inputs[0]
            inner = x.reshape(-1, x.shape[-1]) @ a.t()
            if mask is not None:
                slots = min(high, layer.a.shape[0]) - low
                # Filled, not multiplied: what overflows in another's block must not come back as NaN.
                inner = inner.view(inner.shape[0], slots, -1).masked_fill(mask[:, :slots], 0).flatten(1)
            return output + (inner @ b).view(output.shape)

        return add


def _sizes(module: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear layer; GPT-2's has its weight the other way round."""
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features)
    return int(module.weight.shape[0]), int(module.weight.shape[1])


def read_adapter(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A [rank, inputs] and B [rank, outputs] with the scale in it, by the name of the layer.

    Raises OSError where the files cannot be read, and Unusable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG).read_text())
        tensors = load_file(str(folder / WEIGHTS))
    except (SafetensorError, ValueError) as error:
        raise Unusable(f"the adapter's files are damaged: {error}") from error
    matrices: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(r"(.+)\.lora_(A|B)\.weight", name.removeprefix(_PREFIX))
        if found is None:
            raise Unusable(f"the adapter has {name}, which is no matrix of LoRA")
        matrices.setdefault(found[1], {})[found[2]] = tensor
    read = {}
    for name, pair in matrices.items():
        if set(pair) != {"A", "B"}:
            raise Unusable(f"the adapter has only one of the two matrices of {name}")
        rank = pair["A"].shape[0]
        alpha = _alpha(config, name)
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        read[name] = (pair["A"], pair["B"].t() * scale)
    return read


def _alpha(config: Mapping[str, Any], name: str) -> float:
    """As PEFT finds it: the first pattern that the end of the layer's name matches, else `lora_alpha`."""
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return float(value)
    return float(config["lora_alpha"])
