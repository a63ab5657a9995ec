"""The log probability of an answer is as exact as those of its tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from opensloth.training.methods.kto_loss import logps


def test_an_answers_log_probability_is_not_rounded_to_the_models_precision() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 60, 32).to(torch.bfloat16)

    def model(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=logits)

    batch = {
        "input_ids": torch.randint(0, 32, (2, 60)),
        "attention_mask": torch.ones(2, 60, dtype=torch.long),
        "completion_mask": (torch.arange(60) > 5).long().expand(2, 60),
    }
    tokens = logits.double().log_softmax(-1)[:, :-1].gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    expected = (tokens * batch["completion_mask"][:, 1:]).sum(-1)
    assert expected.max() < -128  # where bfloat16 knows whole numbers only
    assert torch.allclose(logps(model, batch).double(), expected, atol=0.1)
