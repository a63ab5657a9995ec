"""Odds ratio preference optimization by TRL's ORPOTrainer: one loss for the answer and the preference, no reference."""

from __future__ import annotations

from typing import Any

from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from opensloth.datasets.prepare import prepare_dpo
from opensloth.resolve import Resolved
from opensloth.training.methods.arguments import build_arguments
from opensloth.training.methods.orpo_loss import WholeStepORPO
from opensloth.training.methods.splits import prepare_splits
from opensloth.training.rank_trainer import RankTrainer
from opensloth.trl_arguments import orpo_arguments


class OpenSlothORPOTrainer(RankTrainer, WholeStepORPO, ORPOTrainer):
    """TRL's ORPO with the steps of a rank; the loss is over all tokens and pairs of the global batch."""


def create_orpo_trainer(model: Any, tokenizer: Any, dataset: Any, resolved: Resolved) -> OpenSlothORPOTrainer:
    """A trainer over raw pairs."""
    config = resolved.opensloth_config
    orpo = config.orpo_args
    assert orpo is not None
    splits = prepare_splits(
        prepare_dpo,
        dataset,
        tokenizer,
        max_length=orpo.max_length,
        max_prompt_length=orpo.max_prompt_length,
        filter_overlength=config.filter_overlength_samples,
        limit_field="orpo_args.max_length",
    )
    arguments = build_arguments(ORPOConfig, orpo_arguments(resolved.training_args, resolved.device, orpo))
    trainer = OpenSlothORPOTrainer(
        model=model,
        args=arguments,
        **splits.datasets,
        processing_class=tokenizer,
    )
    trainer.data_counts = splits.counts
    return trainer
