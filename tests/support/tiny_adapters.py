"""Random LoRA adapters of a tiny model, as PEFT saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_adapter(model: Path, folder: Path, seed: int, **lora: Any) -> Path:
    """Writes an adapter whose answers differ from the base's into `folder`, which is returned."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ALL, "task_type": "CAUSAL_LM", **lora}
    torch.manual_seed(seed)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), peft.LoraConfig(**options))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)
    return folder
