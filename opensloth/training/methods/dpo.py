"""Direct preference optimization by TRL's DPOTrainer, on pairs that are tokenized and cut here."""

from __future__ import annotations

from typing import Any

from trl import DPOConfig, DPOTrainer

from opensloth.datasets.prepare import prepare_dpo
from opensloth.resolve import Resolved
from opensloth.training.methods.arguments import build_arguments
from opensloth.training.methods.pairs import MeanOverPairs
from opensloth.training.methods.reference import drop_needless_copy, reference_model
from opensloth.training.methods.splits import prepare_splits
from opensloth.training.rank_trainer import RankTrainer
from opensloth.trl_arguments import dpo_arguments


class OpenSlothDPOTrainer(RankTrainer, MeanOverPairs, DPOTrainer):
    """TRL's DPO with the steps of a rank; the loss is the mean over all pairs of the global batch."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Pairs come tokenized; TRL would do it again, without `max_prompt_length`."""
        return dataset


def create_dpo_trainer(model: Any, tokenizer: Any, dataset: Any, resolved: Resolved) -> OpenSlothDPOTrainer:
    """A trainer over raw pairs; the reference is the base, or the adapter that training goes on from."""
    config = resolved.opensloth_config
    dpo = config.dpo_args
    assert dpo is not None
    splits = prepare_splits(
        prepare_dpo,
        dataset,
        tokenizer,
        max_length=dpo.max_length,
        max_prompt_length=dpo.max_prompt_length,
        filter_overlength=config.filter_overlength_samples,
    )
    arguments = build_arguments(DPOConfig, dpo_arguments(resolved.training_args, resolved.device, dpo))
    trainer = OpenSlothDPOTrainer(
        model=model,
        ref_model=reference_model(model, resolved),
        args=arguments,
        **splits.datasets,
        processing_class=tokenizer,
    )
    drop_needless_copy(model)
    trainer.data_counts = splits.counts
    return trainer
