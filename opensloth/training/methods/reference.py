"""What a method measures the policy against: the base, or the adapter that training goes on from."""

from __future__ import annotations

from typing import Any

import peft

from opensloth.init_modules import load_base_model
from opensloth.resolve import Resolved

REFERENCE = "ref"
"""The adapter in which TRL keeps a copy of the policy as it was at the start."""


def reference_model(model: Any, resolved: Resolved) -> Any:
    """The second model that full fine-tuning needs; None where taking the adapter away gives the reference."""
    return None if isinstance(model, peft.PeftModel) else load_base_model(resolved)


def drop_needless_copy(model: Any) -> None:
    """Removes TRL's copy of a new adapter: it equals the base, which is there for nothing when adapters are off."""
    if isinstance(model, peft.PeftModel) and REFERENCE in model.peft_config and _is_fresh(model):
        model.delete_adapter(REFERENCE)


def _is_fresh(model: peft.PeftModel) -> bool:
    """Whether the adapter changes nothing yet: all its B matrices are zero."""
    weights = [p for name, p in model.named_parameters() if ".default" in name and "lora_B" in name]
    return bool(weights) and not any(weight.detach().any() for weight in weights)
