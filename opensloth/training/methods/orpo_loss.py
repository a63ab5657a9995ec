"""ORPO's loss over the pairs of a whole step (arXiv:2403.07691, equations 6 and 7)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import logsigmoid
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import selective_log_softmax

from opensloth.training.methods.whole_steps import WholeSteps

NEARLY_CERTAIN = -1e-7
"""Above it the log odds of a mean log probability leave float32."""


class WholeStepORPO(WholeSteps):
    """A mixin before TRL's ORPOTrainer, whose means over each batch depend on how a step is cut into batches.

    Here the likelihood's term is the mean over all tokens of the chosen texts of the global batch, prompts included as
    in TRL and the authors' code, and the odds ratio's the mean over its pairs.
    """

    beta: float
    _tokens_in_step: float

    def __init__(self, *positional: Any, train_dataset: Any, eval_dataset: Any = None, **options: Any) -> None:
        # Pairs come tokenized; TRL would do it again, without `max_prompt_length`.
        nothing = train_dataset.select([])
        super().__init__(
            *positional,
            train_dataset=nothing,  # type: ignore[call-arg]
            eval_dataset=None if eval_dataset is None else nothing,
            data_collator=DataCollatorForPreference(pad_token_id=options["processing_class"].pad_token_id),
            **options,
        )
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset

    def row_count(self, batch: Any) -> int:
        """Pairs of a batch; its rows are the chosen texts, then the rejected ones."""
        return len(batch["input_ids"]) // 2

    def start_step(self, batches: list[Any]) -> None:
        """Counts the tokens that the likelihood's term is the mean of."""
        counts = [(self._chosen_tokens(batch) * batch["weight"]).sum() for batch in batches]
        self._tokens_in_step = self.over_processes(sum(counts)).item()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """A batch's share of the step's two means."""
        weight, values = inputs["weight"], self.row_values(model, inputs)
        odds = self._log_odds(values["chosen"], values["rejected"])
        pairs, nll, tokens = weight.sum(), (values["nll"] * weight).sum(), (values["tokens"] * weight).sum()
        for name in ("chosen", "rejected"):
            self.note(f"rewards/{name}", (self.beta * values[name] * weight).sum(), pairs)
            self.note(f"logps/{name}", (values[name] * weight).sum(), pairs)
        self.note("rewards/accuracies", ((values["chosen"] > values["rejected"]) * weight).sum(), pairs)
        self.note("nll_loss", nll, tokens)
        self.note("log_odds_chosen", (odds * weight).sum(), pairs)
        self.note("log_odds_ratio", (logsigmoid(odds) * weight).sum(), pairs)
        ratio = (-self.beta * logsigmoid(odds) * weight).sum()
        return self.of_step(nll, self._tokens_in_step) + self.of_step(ratio, self._rows_in_step)

    def row_values(self, model: Any, batch: Any) -> dict[str, torch.Tensor]:
        """Of each pair the mean log probability of both answers, and the chosen text's NLL, summed, and tokens."""
        ids, seen, answer = batch["input_ids"], batch["attention_mask"][:, 1:], batch["completion_mask"][:, 1:]
        logits = model(input_ids=ids, attention_mask=batch["attention_mask"], use_cache=False).logits
        each = selective_log_softmax(logits[:, :-1], ids[:, 1:], row_mask=seen).float() * seen
        chosen, rejected = ((each * answer).sum(-1) / answer.sum(-1)).chunk(2)
        nll = -each.chunk(2)[0].sum(-1)
        return {"chosen": chosen, "rejected": rejected, "nll": nll, "tokens": self._chosen_tokens(batch)}

    def evaluation(self, rows: dict[str, torch.Tensor]) -> dict[str, float]:
        """As in training, over all pairs."""
        chosen, rejected = rows["chosen"], rows["rejected"]
        odds = self._log_odds(chosen, rejected)
        nll, ratio = rows["nll"].sum() / rows["tokens"].sum(), logsigmoid(odds).mean()
        values = {
            "loss": nll - self.beta * ratio,
            "nll_loss": nll,
            "log_odds_chosen": odds.mean(),
            "log_odds_ratio": ratio,
            "rewards/chosen": self.beta * chosen.mean(),
            "rewards/rejected": self.beta * rejected.mean(),
            "rewards/margins": self.beta * (chosen - rejected).mean(),
            "rewards/accuracies": (chosen > rejected).float().mean(),
            "logps/chosen": chosen.mean(),
            "logps/rejected": rejected.mean(),
        }
        return {name: float(value) for name, value in values.items()}

    def _chosen_tokens(self, batch: Any) -> torch.Tensor:
        """Tokens that are predicted in each chosen text: all but the first."""
        return batch["attention_mask"][: self.row_count(batch), 1:].sum(-1).float()

    def _log_odds(self, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        chosen, rejected = chosen.clamp(max=NEARLY_CERTAIN), rejected.clamp(max=NEARLY_CERTAIN)
        return (chosen - rejected) - (torch.log(-torch.expm1(chosen)) - torch.log(-torch.expm1(rejected)))
