"""Odds ratio preference optimization by TRL's ORPOTrainer: one loss for the answer and the preference, no reference."""

from __future__ import annotations

from typing import Any

from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from opensloth.datasets.prepare import prepare_dpo, split_rows
from opensloth.datasets.prepared import Prepared
from opensloth.resolve import Resolved
from opensloth.training.methods.arguments import build_arguments
from opensloth.training.methods.orpo_loss import WholeStepORPO
from opensloth.training.rank_trainer import RankTrainer
from opensloth.trl_arguments import orpo_arguments


class OpenSlothORPOTrainer(RankTrainer, WholeStepORPO, ORPOTrainer):
    """TRL's ORPO with the steps of a rank; the loss is over all tokens and pairs of the global batch."""


def create_orpo_trainer(model: Any, tokenizer: Any, dataset: Any, resolved: Resolved) -> OpenSlothORPOTrainer:
    """A trainer over raw pairs."""
    config = resolved.opensloth_config
    orpo = config.orpo_args
    assert orpo is not None
    train_rows, eval_rows = split_rows(dataset)

    def prepare(rows: Any, split: str) -> Prepared:
        return prepare_dpo(
            rows,
            tokenizer,
            max_length=orpo.max_length,
            max_prompt_length=orpo.max_prompt_length,
            filter_overlength=config.filter_overlength_samples,
            split=split,
        )

    arguments = build_arguments(ORPOConfig, orpo_arguments(resolved.training_args, resolved.device, orpo))
    train = prepare(train_rows, "train")
    evaluation = prepare(eval_rows, "eval") if eval_rows is not None else None
    trainer = OpenSlothORPOTrainer(
        model=model,
        args=arguments,
        train_dataset=train.dataset,
        eval_dataset=evaluation.dataset if evaluation else None,
        processing_class=tokenizer,
    )
    trainer.data_counts = [split.counts for split in (train, evaluation) if split is not None]
    return trainer
