"""Supervised fine-tuning by TRL's SFTTrainer, on rows that are tokenized, masked and packed here."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import Trainer
from trl import SFTConfig, SFTTrainer

from opensloth.datasets.collate import IGNORE, PackedCollator
from opensloth.datasets.prepare import prepare_sft
from opensloth.resolve import Resolved
from opensloth.training.gradient_sync import sum_over_ranks
from opensloth.training.methods.arguments import build_arguments
from opensloth.training.methods.splits import prepare_splits
from opensloth.training.packing_check import keeps_samples_apart
from opensloth.training.rank_trainer import RankTrainer
from opensloth.trl_arguments import sft_arguments

logger = logging.getLogger(__name__)


class OpenSlothSFTTrainer(RankTrainer, SFTTrainer):
    """TRL's SFT with the steps of a rank; the loss is the mean over all trained tokens of the global batch."""

    counts_late = False
    """Metrics stay on the device until they are logged; TRL's own wait for all ranks four times in each pass."""
    _counted: list[torch.Tensor]
    """Of each pass since the last log: summed entropies, correct tokens, trained tokens."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss, with its metrics counted when they are logged."""
        if not (self.counts_late and self.model.training):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs.pop("_prediction_loss_only", None)
        inputs["use_cache"] = False
        loss, outputs = Trainer.compute_loss(self, model, inputs, True, num_items_in_batch)
        counts = (outputs.entropy_sum, outputs.num_correct_tokens, outputs.num_valid_tokens)
        self._counted.append(torch.stack([count.detach().float() for count in counts]))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's entropy and accuracy: means over the passes, each over the trained tokens of all ranks."""
        if self.model.training and self.__dict__.get("_counted"):
            counts = torch.stack(self._counted)
            self._counted = []
            if self.distributed:
                counts = sum_over_ranks(counts)
            ratios = counts[:, :2] / counts[:, 2:].clamp(min=1)
            for name, values in zip(("entropy", "mean_token_accuracy"), ratios.T.tolist(), strict=True):
                self._metrics["train"][name] += values
        super().log(logs, start_time)

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
        """The step's trained tokens; rows that were repeated to go round all processes are trained on once."""
        state = self.accelerator.gradient_state
        if self.model.training and self.distributed and state.end_of_dataloader and self.last_rows:
            labels = batch_samples[-1]["labels"]
            labels[max(self.last_rows - self.accelerator.process_index * len(labels), 0) :] = IGNORE
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
    plain = getattr(arguments, "loss_type", None) == "chunked_nll" and not trainer.aux_loss_enabled
    trainer.counts_late, trainer._counted = plain and resolved.engine == "transformers", []
    return trainer
