"""KTO's loss over the rows of a whole step, with a KL that is drawn once for it (arXiv:2402.01306, equation 7)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.nn.functional import sigmoid
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference
from trl.trainer.utils import selective_log_softmax, use_adapter

from opensloth.training.methods.whole_steps import WholeSteps, mean_where

WITHOUT_KL = "apo_zero_unpaired"
LOSS_TYPES = ("kto", WITHOUT_KL)


class UnpairedCollator:
    """TRL's batches of prompts with one answer, and `num_tokens` and `num_samples` for the metrics."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad = DataCollatorForUnpairedPreference(pad_token_id=pad_token_id)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rows with `prompt_ids`, `completion_ids` and `label`; of an evaluation also `KL_completion_ids`."""
        batch = dict(self.pad(rows))
        batch["num_tokens"] = batch["attention_mask"].sum(-1)
        batch["num_samples"] = torch.ones(len(rows), dtype=torch.long)
        return batch


class WholeStepKTO(WholeSteps):
    """A mixin before TRL's KTOTrainer: the loss is the mean over the rows of the global batch.

    The KL is estimated once a step, from each prompt with the answer of the row before it in the global batch. TRL
    draws those pairs within each device's batch, so that its target changes with the batch size.
    """

    beta: float
    desirable_weight: float
    undesirable_weight: float
    loss_type: str
    ref_model: Any
    _kl: torch.Tensor

    def __init__(self, *positional: Any, args: Any, **options: Any) -> None:
        wanted = args.loss_type
        args.loss_type = WITHOUT_KL  # else TRL forbids shuffling and batches of one row, for its own KL pairs
        super().__init__(*positional, args=args, **options)  # type: ignore[call-arg]
        args.loss_type = self.loss_type = wanted

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Rows come tokenized."""
        return dataset

    def start_step(self, batches: list[Any]) -> None:
        """Everything that needs no gradient: the reference's view of each row, and the KL."""
        pairs = self._mismatched(batches) if self.loss_type != WITHOUT_KL else []
        total = torch.zeros((), device=self.args.device)
        self.model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():  # type: ignore[attr-defined]
            total += sum(logps(self.model, pair).sum() for pair in pairs)
            with self._reference() as reference:
                for batch in batches:
                    batch["ref_logps"] = logps(reference, batch)
                total -= sum(logps(reference, pair).sum() for pair in pairs)
        self.model.train()
        # A single row has no other answer to be paired with.
        count = self._rows_in_step if self._rows_in_step > 1 else float("inf")
        self._kl = (self.over_processes(total) / count).clamp(min=0)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """A batch's share of the step's mean over rows."""
        own, label, weight = logps(model, inputs), inputs["label"].bool(), inputs["weight"]
        ratio = own - inputs["ref_logps"]
        losses = self._losses(ratio, label, self._kl)
        for name, rows in (("chosen", label * weight), ("rejected", ~label * weight)):
            self.note(f"rewards/{name}", (self.beta * ratio * rows).sum(), rows.sum())
            self.note(f"logps/{name}", (own * rows).sum(), rows.sum())
        self.note("kl", self._kl)
        return self.of_step((losses * weight).sum(), self._rows_in_step)

    def row_values(self, model: Any, batch: Any) -> dict[str, torch.Tensor]:
        """The log probabilities of the answers, and those of another answer to the same prompts."""
        views = {"": batch}
        if self.loss_type != WITHOUT_KL:
            views["KL_"] = {name.removeprefix("KL_"): value for name, value in batch.items() if name.startswith("KL_")}
        values = {f"{name}logps": logps(model, view) for name, view in views.items()}
        with self._reference() as reference:
            values |= {f"ref_{name}logps": logps(reference, view) for name, view in views.items()}
        return values | {"label": batch["label"].float()}

    def evaluation(self, rows: dict[str, torch.Tensor]) -> dict[str, float]:
        """As in training, with one KL for all rows."""
        label, ratio = rows["label"].bool(), rows["logps"] - rows["ref_logps"]
        kl = torch.zeros(())
        if self.loss_type != WITHOUT_KL and len(label) > 1:
            kl = (rows["KL_logps"] - rows["ref_KL_logps"]).mean().clamp(min=0)
        chosen, rejected = (mean_where(self.beta * ratio, some) for some in (label, ~label))
        metrics = {
            "loss": float(self._losses(ratio, label, kl).mean()),
            "kl": float(kl),
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "logps/chosen": mean_where(rows["logps"], label),
            "logps/rejected": mean_where(rows["logps"], ~label),
        }
        return {name: value for name, value in metrics.items() if value == value}  # without a label: NaN

    def _losses(self, ratio: torch.Tensor, label: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
        gain = torch.where(label, ratio - kl, kl - ratio)
        return torch.where(label, self.desirable_weight, self.undesirable_weight) * (1 - sigmoid(self.beta * gain))

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Any]:
        if self.ref_model is not None:
            yield self.ref_model
            return
        policy = self.accelerator.unwrap_model(self.model)
        with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
            yield policy

    def _mismatched(self, batches: list[Any]) -> list[dict[str, torch.Tensor]]:
        """The prompts of each batch with the answers of the rows before them, in the order of the data."""
        answers = [
            [
                ids[mask.bool()].tolist() if weight else None
                for ids, mask, weight in zip(batch["input_ids"], batch["completion_mask"], batch["weight"], strict=True)
            ]
            for batch in batches
        ]
        ranks: list[list[list[list[int] | None]]] = gather_object([answers])
        order = [
            (rank, batch, row)
            for batch in range(len(batches))
            for rank in range(len(ranks))
            for row in range(len(ranks[rank][batch]))
            if ranks[rank][batch][row] is not None
        ]
        before = dict(zip(order, [order[-1], *order[:-1]], strict=True))
        pairs = []
        for number, batch in enumerate(batches):
            places = [before.get((self.accelerator.process_index, number, row)) for row in range(len(batch["weight"]))]
            found = [(row, ranks[p[0]][p[1]][p[2]]) for row, p in enumerate(places) if p is not None]
            if found:
                pairs.append(self._paired(batch, found))
        return pairs

    def _paired(self, batch: Any, found: list[tuple[int, Any]]) -> dict[str, torch.Tensor]:
        rows, masks = [], []
        for row, answer in found:
            prompt = batch["input_ids"][row][(batch["attention_mask"] - batch["completion_mask"])[row].bool()]
            ids = torch.cat([prompt, torch.tensor(answer, device=prompt.device)])[: self.args.max_length]
            rows.append(ids)
            masks.append((torch.arange(len(ids), device=ids.device) >= len(prompt)).long())
        return {
            "input_ids": pad_sequence(rows, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(ids) for ids in rows], batch_first=True),
            "completion_mask": pad_sequence(masks, batch_first=True),
        }


def logps(model: Any, batch: Any) -> torch.Tensor:
    """The log probability of each row's answer under `model`, of shape (rows,)."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    mask = batch["completion_mask"][:, 1:]
    each = selective_log_softmax(logits[:, :-1], batch["input_ids"][:, 1:], row_mask=mask)
    # Added up in 16 bits, an answer of -150 would be known to the next whole number only.
    return (each.float() * mask).sum(-1)
