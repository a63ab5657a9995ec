"""Batches of packed rows: one row a sequence, with positions that start anew at each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

IGNORE = -100


@dataclass
class PackedCollator:
    """Pads packed rows to the longest and gives each sample positions of its own.

    There is no attention mask: from positions that start anew, transformers makes a mask for each row that keeps the
    samples apart (`find_packed_sequence_indices`), with B x S x S entries, not (B x S) x (B x S). Padding counts as a
    sample of its own. `num_tokens` and `num_samples` (one entry a row, padding not counted) are for the metrics.
    """

    pad_token_id: int
    counts: bool = True
    """Whether to add `num_tokens` and `num_samples`, which a plain TRL trainer would hand to the model."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Rows with `input_ids`, `labels` and `seq_lengths` to tensors of shape (rows, longest row)."""
        width = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.full((len(rows), width), self.pad_token_id)
        labels = torch.full((len(rows), width), IGNORE)
        position_ids = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[i, :length] = torch.tensor(row["input_ids"])
            labels[i, :length] = torch.tensor(row["labels"])
            samples = [*row["seq_lengths"], width - length]
            position_ids[i] = torch.cat([torch.arange(sample) for sample in samples])
        batch = {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
        if self.counts:
            batch["num_tokens"] = torch.tensor([len(row["input_ids"]) for row in rows])
            batch["num_samples"] = torch.tensor([len(row["seq_lengths"]) for row in rows])
        return batch
