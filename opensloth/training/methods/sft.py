"""Supervised fine-tuning by TRL's SFTTrainer, on rows that are tokenized, masked and packed here."""

from __future__ import annotations

import logging
from typing import Any

from trl import SFTConfig, SFTTrainer

from opensloth.datasets.collate import IGNORE, PackedCollator
from opensloth.datasets.prepare import prepare_sft
from opensloth.resolve import Resolved
from opensloth.training.methods.arguments import build_arguments
from opensloth.training.methods.splits import prepare_splits
from opensloth.training.packing_check import keeps_samples_apart
from opensloth.training.rank_trainer import RankTrainer
from opensloth.trl_arguments import sft_arguments

logger = logging.getLogger(__name__)


class OpenSlothSFTTrainer(RankTrainer, SFTTrainer):
    """TRL's SFT with the steps of a rank; the loss is the mean over all trained tokens of the global batch."""

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
        """The step's trained tokens; rows that were repeated to go round all processes are trained on once."""
        state = self.accelerator.gradient_state
        if self.model.training and self.distributed and state.end_of_dataloader and state.remainder > 0:
            labels = batch_samples[-1]["labels"]
            labels[max(state.remainder - self.accelerator.process_index * len(labels), 0) :] = IGNORE
        return super()._get_num_items_in_batch(batch_samples, device)


def create_sft_trainer(model: Any, tokenizer: Any, dataset: Any, resolved: Resolved) -> OpenSlothSFTTrainer:
    """A trainer over raw rows; `data_counts` on it says what became of them."""
    config = resolved.opensloth_config
    packing = config.sequence_packing
    if packing and not keeps_samples_apart(model):
        logger.warning("this model mixes packed samples; its rows are not packed")
        packing = False
    splits = prepare_splits(
        prepare_sft,
        dataset,
        tokenizer,
        max_length=config.fast_model_args.max_seq_length,
        loss_on=config.loss_on,
        filter_overlength=config.filter_overlength_samples,
        packing=packing,
    )
    arguments = build_arguments(SFTConfig, sft_arguments(resolved.training_args, resolved.device))
    trainer = OpenSlothSFTTrainer(
        model=model,
        args=arguments,
        **splits.datasets,
        processing_class=tokenizer,
        data_collator=PackedCollator(tokenizer.pad_token_id) if packing else None,
    )
    trainer.data_counts = splits.counts
    return trainer
