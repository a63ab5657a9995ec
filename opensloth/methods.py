"""The training methods by name, with what each sets where the user did not."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from opensloth.errors import FieldError, InvalidInput
from opensloth.method_args import DPOArgs, GRPOArgs, KTOArgs, ORPOArgs


@dataclass(frozen=True)
class Method:
    """A training type as config, API and scheduler know it; the trainer of it is in `trainer_factory_map`.

    `defaults` maps a dotted path (`opensloth_config.lora_args.r`) to the value that holds unless the user set one.
    `args_field` is the field of OpenSlothConfig with arguments that only this method has, `args_class` what they must
    be; a method from outside the package has them in `method_args`. `best_metric` is the evaluation's metric that says
    which weights are best.
    """

    name: str
    title: str
    args_field: str | None = None
    args_class: type[BaseModel] | None = None
    packs: bool = False
    best_metric: str = "eval_loss"
    defaults: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {}


def register_method(method: Method) -> None:
    """Make a training type known; an existing one of that name is replaced."""
    METHODS[method.name] = method


def get_method(name: str) -> Method:
    """The method of that name; raises InvalidInput that names the nearest."""
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name.lower()[:64], METHODS, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    message = f"unknown training type {name[:64]!r}, known are {', '.join(sorted(METHODS))}{meant}"
    raise InvalidInput(
        f"training_type: {message}", fields=[FieldError("opensloth_config.training_type", message, "unknown_method")]
    )


register_method(
    Method(
        name="sft",
        title="supervised fine-tuning",
        packs=True,
        defaults={
            "opensloth_config.lora_args.r": 16,
            "opensloth_config.sequence_packing": True,
            "training_args.learning_rate": 2e-4,
            "training_args.per_device_train_batch_size": 8,
        },
    )
)
register_method(
    Method(
        name="dpo",
        title="direct preference optimization",
        args_field="dpo_args",
        args_class=DPOArgs,
        defaults={
            "opensloth_config.lora_args.r": 32,
            "opensloth_config.sequence_packing": False,
            "training_args.learning_rate": 5e-6,
            "training_args.per_device_train_batch_size": 2,
        },
    )
)
register_method(
    Method(
        name="kto",
        title="Kahneman-Tversky optimization",
        args_field="kto_args",
        args_class=KTOArgs,
        defaults={
            "opensloth_config.lora_args.r": 32,
            "opensloth_config.sequence_packing": False,
            # The upper end of what TRL's guide to KTO recommends: a LoRA adapter takes more than whole weights do.
            "training_args.learning_rate": 5e-6,
            "training_args.per_device_train_batch_size": 4,
        },
    )
)
register_method(
    Method(
        name="orpo",
        title="odds ratio preference optimization",
        args_field="orpo_args",
        args_class=ORPOArgs,
        defaults={
            "opensloth_config.lora_args.r": 32,
            "opensloth_config.sequence_packing": False,
            # The paper's (arXiv:2403.07691, appendix) and that of Unsloth's notebook.
            "training_args.learning_rate": 8e-6,
            "training_args.per_device_train_batch_size": 2,
        },
    )
)
register_method(
    Method(
        name="grpo",
        title="group relative policy optimization",
        args_field="grpo_args",
        args_class=GRPOArgs,
        best_metric="eval_reward",
        defaults={
            "opensloth_config.lora_args.r": 32,
            "opensloth_config.sequence_packing": False,
            # Unsloth's notebooks for GRPO with LoRA.
            "training_args.learning_rate": 5e-6,
            # One group of answers to a prompt, at num_generations' default.
            "training_args.per_device_train_batch_size": 8,
        },
    )
)
