"""The arguments that TRL's config classes get, for the trainers here and for the bare script that does the same.

Imports no torch: the API renders scripts.
"""

from __future__ import annotations

from typing import Any

from opensloth.opensloth_config import DPOArgs, GRPOArgs, KTOArgs, ORPOArgs, TrainingArguments


def common_arguments(training_args: TrainingArguments, device: str) -> dict[str, Any]:
    """What the user set, and what every training of ours needs; `training_args` are resolved for `device`."""
    values = training_args.to_dict()
    values.setdefault("data_seed", values["seed"])
    if values.get("load_best_model_at_end") and values.get("save_strategy", "no") == "no":
        values["save_strategy"] = "best"  # what is not kept cannot be loaded
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


def kto_arguments(
    training_args: TrainingArguments, device: str, kto_args: KTOArgs, weights: tuple[float, float]
) -> dict[str, Any]:
    """For `trl.KTOConfig`: rows come tokenized; `weights` are those of wanted and unwanted answers."""
    own = kto_args.model_dump(exclude={"max_prompt_length"}, exclude_none=True)
    own |= {"desirable_weight": weights[0], "undesirable_weight": weights[1]}
    return common_arguments(training_args, device) | own


def orpo_arguments(training_args: TrainingArguments, device: str, orpo_args: ORPOArgs) -> dict[str, Any]:
    """For `trl.experimental.orpo.ORPOConfig`: pairs come tokenized, with their prompts cut."""
    own = orpo_args.model_dump(exclude={"max_prompt_length"}, exclude_none=True)
    return common_arguments(training_args, device) | own | {"remove_unused_columns": False}


def grpo_arguments(
    training_args: TrainingArguments, device: str, grpo_args: GRPOArgs, weights: list[float]
) -> dict[str, Any]:
    """For `trl.GRPOConfig`; `weights` are those of the rewards."""
    own = grpo_args.model_dump(exclude={"max_prompt_length", "reward_functions"}, exclude_none=True)
    return common_arguments(training_args, device) | own | {"reward_weights": weights}
