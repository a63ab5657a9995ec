"""The weights of a result, one tensor at a time: the base's checkpoint with the adapter merged in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensloth.training.exports.failures import ExportFailed

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_PLAIN = {"rank_pattern": {}, "alpha_pattern": {}, "bias": "none", "use_dora": False, "fan_in_fan_out": False}
"""What a plain LoRA adapter says of itself; another kind is merged by PEFT, in memory."""
_UNSUPPORTED_PARTS = ("modules_to_save", "layer_replication", "trainable_token_indices", "target_parameters")


@dataclass(frozen=True)
class _Lora:
    a: str
    b: str
    scale: float


class WeightSource:
    """Reads safetensors files tensor by tensor, so that memory holds one of them and not the model.

    W' = W + scale * B A in float32 (LoRA, arXiv:2106.09685, section 4.1), scale = alpha / r, or alpha / sqrt(r) with
    rsLoRA (arXiv:2312.03732).
    """

    def __init__(self, model: Path, adapter: Path | None = None) -> None:
        self._files = {name: file for file in sorted(model.glob("*.safetensors")) for name in _names(file)}
        if not self._files:
            raise ExportFailed(f"{model.name} has no safetensors file", code="model_error")
        self._adapter = adapter / "adapter_model.safetensors" if adapter else None
        self._loras = _loras(adapter, self._files) if adapter else {}
        self._open: dict[Path, Any] = {}

    @property
    def names(self) -> list[str]:
        """Names of the tensors, sorted by the file that they are in."""
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._file(self._files[name]).get_slice(name).get_shape())

    def tensor(self, name: str) -> Any:
        """The tensor: in float32 where an adapter is merged into it, else as it is stored."""
        import torch

        stored = self._file(self._files[name]).get_tensor(name)
        lora = self._loras.get(name)
        if lora is None or self._adapter is None:
            return stored
        adapter = self._file(self._adapter)
        a, b = adapter.get_tensor(lora.a).to(torch.float32), adapter.get_tensor(lora.b).to(torch.float32)
        return stored.to(torch.float32).addmm_(b, a, alpha=lora.scale)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Every tensor with its name."""
        for name in self._files:
            yield name, self.tensor(name)

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            from safetensors import safe_open

            self._open[path] = safe_open(path, framework="pt")
        return self._open[path]


def can_stream(model: Path, adapter: Path | None) -> bool:
    """Whether the adapter is plain LoRA on tensors that the checkpoint has under the same names."""
    if adapter is None:
        return True
    config = json.loads((adapter / "adapter_config.json").read_text())
    plain = config.get("peft_type", "LORA") == "LORA" and all(
        (config.get(name) or default) == default for name, default in _PLAIN.items()
    )
    if not plain or any(config.get(name) for name in _UNSUPPORTED_PARTS) or config.get("lora_bias"):
        return False
    there = {name for file in model.glob("*.safetensors") for name in _names(file)}
    try:
        _loras(adapter, there)
    except KeyError:
        return False
    return True


def refuse_quantized(model: Path) -> None:
    """Raises ExportFailed for a base that is stored quantised: its exact weights are not there to merge into."""
    config = json.loads((model / "config.json").read_text())
    if config.get("quantization_config"):
        raise ExportFailed(
            "the base model is stored quantised, so that its weights cannot be merged or converted",
            hint='register its 16-bit original and train on that, or export with "format": "adapter"',
        )


def merge_in_memory(model: Path, adapter: Path, target: Path) -> None:
    """Lets PEFT merge an adapter of any kind and writes the model to `target`; needs memory for all of it."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        model, use_safetensors=True, trust_remote_code=False, local_files_only=True, dtype=torch.float32
    )
    merged = peft.PeftModel.from_pretrained(loaded, str(adapter)).merge_and_unload()
    merged.save_pretrained(target)


def _loras(adapter: Path, there: Any) -> dict[str, _Lora]:
    """The adapter's pairs by the tensor that each changes; raises KeyError for one that the checkpoint lacks."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    rank, alpha = int(config["r"]), float(config.get("lora_alpha") or config["r"])
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    names = _names(adapter / "adapter_model.safetensors")
    found = {}
    for name in names:
        if not name.startswith(_PREFIX) or not name.endswith((_A, _B)):
            raise KeyError(name)
        module = name.removeprefix(_PREFIX).removesuffix(_A).removesuffix(_B)
        if f"{module}.weight" not in there:
            raise KeyError(name)
        found[f"{module}.weight"] = _Lora(f"{_PREFIX}{module}{_A}", f"{_PREFIX}{module}{_B}", scale)
    return found


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())
