"""The arguments that a method's TRL config class gets: what the user set, and what every training of ours needs."""

from __future__ import annotations

from typing import Any

from opensloth.resolve import Resolved

OWN = "training arguments"
"""Noted on an error of TRL or transformers about the arguments, which is left as it is."""


def build_arguments(config_class: type, resolved: Resolved, **method: Any) -> Any:
    """An instance of TRL's `config_class`; `method` are the fields that the method sets.

    Fields that transformers does not know raise its own TypeError.
    """
    values = resolved.training_args.to_dict()
    values.setdefault("data_seed", values["seed"])
    values |= {
        "logging_nan_inf_filter": False,  # it would show the last finite loss in place of NaN
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": resolved.device == "cuda",
    }
    values |= method
    try:
        return config_class(**values)
    except (TypeError, ValueError) as error:
        error.add_note(OWN)
        raise
