"""A loss over pairs that does not depend on how the pairs of a step fall into batches."""

from __future__ import annotations

from typing import Any

import torch


class MeanOverPairs:
    """A mixin before a TRL trainer: a step's loss is the mean over all its pairs, on all processes.

    TRL takes the mean of the means of its batches, in which the pairs of an epoch's last, smaller batch count more.
    """

    accelerator: Any
    model: Any
    current_gradient_accumulation_steps: int
    _pairs_in_step: int
    _own_pairs: list[int]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The batches of a step, whose pairs are counted."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        self._own_pairs = [len(batch["input_ids"]) // 2 for batch in batches]
        state = self.accelerator.gradient_state
        if batches and self.accelerator.num_processes > 1 and state.end_of_dataloader and state.remainder > 0:
            # Pairs were repeated so that the last batch of the epoch goes round all processes.
            size = self._own_pairs[-1]
            own = min(max(state.remainder - self.accelerator.process_index * size, 0), size)
            self._own_pairs[-1] = own
            batches[-1] = _repeated(batches[-1], own or size)
        pairs = sum(self._own_pairs)
        if self.accelerator.num_processes > 1:
            pairs = int(self.accelerator.gather(torch.tensor([pairs], device=device)).sum())
        self._pairs_in_step = pairs
        return batches, items

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's mean over a batch, weighted by the batch's share of the step."""
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        loss, outputs = result if return_outputs else (result, None)
        if self.model.training:
            # The trainer divides by the number of batches, and the mean over processes by theirs.
            batches = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            loss = loss * (self._own_pairs.pop(0) * batches / self._pairs_in_step)
        return (loss, outputs) if return_outputs else loss


def _repeated(batch: Any, own: int) -> Any:
    """A batch of the same size in which its first `own` pairs take turns, so that its mean is theirs.

    It is exactly theirs where the size is a multiple of `own`, which it always is for batches of one and two pairs.
    """
    size = len(batch["input_ids"]) // 2
    chosen = torch.arange(size) % own
    rows = torch.cat([chosen, chosen + size])
    return {name: value[rows.to(value.device)] for name, value in batch.items()}
