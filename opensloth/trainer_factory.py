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
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opensloth.datasets.canonical import canonical_splits
from opensloth.datasets.split import has_eval_rows, with_eval_split
from opensloth.errors import FieldError, InvalidInput
from opensloth.init_modules import attach_adapter, resolve_here
from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments
from opensloth.resolve import Resolved

if TYPE_CHECKING:
    from opensloth.rewards.spec import RewardPolicy

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


def _create_grpo(model: Any, tokenizer: Any, dataset: Any, resolved: Resolved) -> Any:
    from opensloth.training.methods.grpo import create_grpo_trainer

    return create_grpo_trainer(model, tokenizer, dataset, resolved)


trainer_factory_map: dict[str, TrainerFactory] = {
    "sft": _create_sft,
    "dpo": _create_dpo,
    "kto": _create_kto,
    "orpo": _create_orpo,
    "grpo": _create_grpo,
}
"""What makes the trainer of each training type; TRL is imported only when one is made."""


def create_trainer_by_type(
    model: Any,
    tokenizer: Any,
    dataset: Any,
    opensloth_config: OpenSlothConfig,
    training_args: TrainingArguments | None = None,
    *,
    reward_policy: RewardPolicy | None = None,
) -> Any:
    """A TRL trainer, ready for `train()`, with `data_counts` (what became of the rows of each split).

    `dataset` is raw: a Hugging Face Dataset or a list of rows, or a DatasetDict or dict with `train` and optionally
    `eval`, `validation` or `test`. Rows hold `messages`, `prompt` and `completion`, `text`, or `input_ids` with
    `labels` for SFT; `prompt`, `chosen`, `rejected` for DPO and ORPO; `prompt`, `completion`, `label` for KTO; and
    `prompt` with what the rewards read for GRPO. The config is resolved here as the service does it. A model without
    an adapter gets the one that the config asks for. `reward_policy` is what a server lets rewards use. Raises
    InvalidInput for arguments that do not go together or an unknown training type, InvalidDataset for rows that
    cannot be used.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    factory = trainer_factory_map.get(opensloth_config.training_type)
    if factory is None:
        known = ", ".join(sorted(trainer_factory_map))
        message = f"no trainer for training type {opensloth_config.training_type!r}; known are {known}"
        raise InvalidInput(message, fields=[FieldError("opensloth_config.training_type", message)])
    resolved = resolve_here(opensloth_config, _ours(training_args), has_eval_dataset=has_eval_rows(dataset))
    resolved = replace(resolved, reward_policy=reward_policy)
    config, arguments = resolved.opensloth_config, resolved.training_args
    seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
    dataset = canonical_splits(dataset, config.training_type, config.dataset_form)
    dataset = with_eval_split(dataset, config.eval_split, seed)
    model = attach_adapter(model, config)
    if resolved.engine == "transformers":
        from opensloth.training.speed.apply import speed_up

        speed_up(model)
    if config.shard_weights:
        from opensloth.training.sharding import shard

        shard(model, resolved)
    trainer = factory(model, tokenizer, dataset, resolved)
    if config.early_stopping_patience is not None:
        from transformers import EarlyStoppingCallback

        patience, threshold = config.early_stopping_patience, config.early_stopping_threshold
        trainer.add_callback(EarlyStoppingCallback(patience, threshold))
    return trainer


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
