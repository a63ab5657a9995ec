"""Kahneman-Tversky optimization by TRL's KTOTrainer, on answers that are labelled as wanted or not."""

from __future__ import annotations

from typing import Any

from trl import KTOConfig, KTOTrainer

from opensloth.datasets.unpaired import balanced_weights, prepare_kto
from opensloth.errors import FieldError, InvalidInput
from opensloth.resolve import Resolved
from opensloth.training.methods.arguments import build_arguments
from opensloth.training.methods.kto_loss import LOSS_TYPES, UnpairedCollator, WholeStepKTO
from opensloth.training.methods.reference import drop_needless_copy, reference_model
from opensloth.training.methods.splits import prepare_splits
from opensloth.training.rank_trainer import RankTrainer
from opensloth.trl_arguments import kto_arguments


class OpenSlothKTOTrainer(RankTrainer, WholeStepKTO, KTOTrainer):
    """TRL's KTO with the steps of a rank; loss and KL are over all rows of the global batch."""


def create_kto_trainer(model: Any, tokenizer: Any, dataset: Any, resolved: Resolved) -> OpenSlothKTOTrainer:
    """A trainer over raw rows; the reference is the base, or the adapter that training goes on from."""
    config = resolved.opensloth_config
    kto = config.kto_args
    assert kto is not None
    if kto.loss_type not in LOSS_TYPES:
        path = "opensloth_config.kto_args.loss_type"
        message = f"unknown loss {kto.loss_type[:64]!r}, known are {' and '.join(LOSS_TYPES)}"
        raise InvalidInput(f"{path}: {message}", fields=[FieldError(path, message)])
    splits = prepare_splits(
        prepare_kto,
        dataset,
        tokenizer,
        max_length=kto.max_length,
        max_prompt_length=kto.max_prompt_length,
        filter_overlength=config.filter_overlength_samples,
    )
    weights = balanced_weights(splits.train.dataset["label"], kto.desirable_weight, kto.undesirable_weight)
    arguments = build_arguments(KTOConfig, kto_arguments(resolved.training_args, resolved.device, kto, weights))
    trainer = OpenSlothKTOTrainer(
        model=model,
        ref_model=reference_model(model, resolved),
        args=arguments,
        **splits.datasets,
        processing_class=tokenizer,
        data_collator=UnpairedCollator(tokenizer.pad_token_id),
    )
    drop_needless_copy(model)
    trainer.data_counts = splits.counts
    return trainer
