"""The arguments that TRL's config classes get, for the trainers here and for the bare script that does the same.

Imports no torch: the API renders scripts.
"""

from __future__ import annotations

from typing import Any

from opensloth.opensloth_config import DPOArgs, TrainingArguments


def common_arguments(training_args: TrainingArguments, device: str) -> dict[str, Any]:
    """What the user set, and what every training of ours needs; `training_args` are resolved for `device`."""
    values = training_args.to_dict()
    values.setdefault("data_seed", values["seed"])
    return values | {
        "logging_nan_inf_filter": False,  # it would show the last finite loss in place of NaN
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": device == "cuda",
    }


def sft_arguments(training_args: TrainingArguments, device: str) -> dict[str, Any]:
    """For `trl.SFTConfig`: rows come tokenized, cut and packed."""
    return common_arguments(training_args, device) | {
        "max_length": None,
        "packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }


def dpo_arguments(training_args: TrainingArguments, device: str, dpo_args: DPOArgs) -> dict[str, Any]:
    """For `trl.DPOConfig`: pairs come tokenized, with their prompts cut."""
    own = dpo_args.model_dump(exclude={"max_prompt_length"}, exclude_none=True)
    return common_arguments(training_args, device) | own
