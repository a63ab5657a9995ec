"""A loss over pairs that does not depend on how the pairs of a step fall into batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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
    _shared_out: list[int] | None
    """How many pairs each process has of an epoch's last batch, where those do not go round all processes."""

    @property
    def last_rows(self) -> int:
        """Rows of an epoch's last batch where some were repeated, else 0; RankTrainer knows them."""
        raise NotImplementedError

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The batches of a step, whose pairs are counted; pairs that were repeated are taken out."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        self._own_pairs = [len(batch["input_ids"]) // 2 for batch in batches]
        self._shared_out = None
        state, processes = self.accelerator.gradient_state, self.accelerator.num_processes
        if batches and processes > 1 and state.end_of_dataloader and self.last_rows:
            size = self._own_pairs[-1]
            self._shared_out = [min(max(self.last_rows - rank * size, 0), size) for rank in range(processes)]
            self._own_pairs[-1] = self._shared_out[self.accelerator.process_index]
            # A process without a pair computes one that counts nothing: nobody skips an exchange.
            batches[-1] = _first(batches[-1], max(self._own_pairs[-1], 1))
        pairs = sum(self._own_pairs)
        if processes > 1:
            pairs = int(self.accelerator.gather(torch.tensor([pairs], device=device)).sum())
        self._pairs_in_step = pairs
        return batches, items

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's mean over a batch, weighted by the batch's share of the step."""
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        own = self._own_pairs.pop(0)
        uneven = self._shared_out is not None and not self._own_pairs
        with self._metrics_of(self._shared_out or [], own) if uneven else contextlib.nullcontext():
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        loss, outputs = result if return_outputs else (result, None)
        # The trainer divides by the number of batches, and the mean over processes by theirs.
        batches = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        loss = loss * (own * batches / self._pairs_in_step)
        return (loss, outputs) if return_outputs else loss

    @contextlib.contextmanager
    def _metrics_of(self, shared_out: list[int], own: int) -> Iterator[None]:
        """TRL gathers its metrics with as many values from each process; here each gives those of its pairs."""
        gather, most = self.accelerator.gather, shared_out[0]

        def gather_pairs(values: torch.Tensor) -> torch.Tensor:
            if values.ndim == 0:  # a sum over the batch
                total: torch.Tensor = gather(values if own else torch.zeros_like(values))
                return total
            filled = values.new_zeros(most)
            filled[: len(values)] = values
            everyone = gather(filled).view(len(shared_out), most)
            return torch.cat([some[:count] for some, count in zip(everyone, shared_out, strict=True)])

        self.accelerator.gather = gather_pairs
        try:
            yield
        finally:
            del self.accelerator.gather


def _first(batch: Any, count: int) -> Any:
    """The first `count` pairs of a batch; rows of tokens are the chosen answers, then the rejected ones."""
    size = len(batch["input_ids"]) // 2
    pairs = torch.arange(count)
    rows = torch.cat([pairs, pairs + size])
    return {name: value[(rows if len(value) == 2 * size else pairs).to(value.device)] for name, value in batch.items()}
