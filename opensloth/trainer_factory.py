"""The public way to a trainer: `create_trainer_by_type` looks the training type up in `trainer_factory_map`.

    from opensloth.init_modules import init_model_and_tokenizer
    from opensloth.trainer_factory import create_trainer_by_type

    model, tokenizer = init_model_and_tokenizer(config)
    trainer = create_trainer_by_type(model, tokenizer, dataset, config, training_args)
    trainer.train()

A job's trainer process comes the same way. A new training type is one entry in the map and one in
`opensloth.methods`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from opensloth.errors import FieldError, InvalidInput
from opensloth.init_modules import attach_adapter, resolve_here
from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.resolve import Resolved

TrainerFactory = Callable[[Any, Any, Any, Resolved], Any]


def _create_sft(model: Any, tokenizer: Any, dataset: Any, resolved: Resolved) -> Any:
    from opensloth.training.methods.sft import create_sft_trainer

    return create_sft_trainer(model, tokenizer, dataset, resolved)


def _create_dpo(model: Any, tokenizer: Any, dataset: Any, resolved: Resolved) -> Any:
    from opensloth.training.methods.dpo import create_dpo_trainer

    return create_dpo_trainer(model, tokenizer, dataset, resolved)


def _create_kto(model: Any, tokenizer: Any, dataset: Any, resolved: Resolved) -> Any:
    from opensloth.training.methods.kto import create_kto_trainer

    return create_kto_trainer(model, tokenizer, dataset, resolved)


def _create_orpo(model: Any, tokenizer: Any, dataset: Any, resolved: Resolved) -> Any:
    from opensloth.training.methods.orpo import create_orpo_trainer

    return create_orpo_trainer(model, tokenizer, dataset, resolved)


trainer_factory_map: dict[str, TrainerFactory] = {
    "sft": _create_sft,
    "dpo": _create_dpo,
    "kto": _create_kto,
    "orpo": _create_orpo,
}
"""What makes the trainer of each training type; TRL is imported only when one is made."""


def create_trainer_by_type(
    model: Any,
    tokenizer: Any,
    dataset: Any,
    opensloth_config: OpenSlothConfig,
    training_args: TrainingArguments | None = None,
) -> Any:
    """A TRL trainer, ready for `train()`, with `data_counts` (what became of the rows of each split).

    `dataset` is raw: a Hugging Face Dataset or a list of rows, or a DatasetDict or dict with `train` and optionally
    `eval`, `validation` or `test`. Rows hold `messages`, `prompt` and `completion`, `text`, or `input_ids` with
    `labels` for SFT, and `prompt`, `chosen`, `rejected` for DPO. The config is resolved here as the service does it.
    A model without an adapter gets the one that the config asks for. Raises InvalidInput for arguments that do not
    go together or an unknown training type, InvalidDataset for rows that cannot be used.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    factory = trainer_factory_map.get(opensloth_config.training_type)
    if factory is None:
        known = ", ".join(sorted(trainer_factory_map))
        message = f"no trainer for training type {opensloth_config.training_type!r}; known are {known}"
        raise InvalidInput(message, fields=[FieldError("opensloth_config.training_type", message)])
    has_eval = hasattr(dataset, "keys") and any(dataset.get(name) for name in ("eval", "validation", "test"))
    resolved = resolve_here(opensloth_config, _ours(training_args), has_eval_dataset=has_eval)
    return factory(attach_adapter(model, resolved.opensloth_config), tokenizer, dataset, resolved)


def _ours(training_args: Any) -> TrainingArguments:
    """The arguments as our class; of transformers' own class, the fields that differ from its defaults."""
    if training_args is None:
        return TrainingArguments()
    if isinstance(training_args, TrainingArguments):
        return training_args
    from dataclasses import MISSING, fields

    given = {}
    for field in fields(training_args):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value = getattr(training_args, field.name)
        if field.init and value != default:
            given[field.name] = getattr(value, "value", value)
    return TrainingArguments(**given)
