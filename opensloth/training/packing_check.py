"""Whether a model keeps packed samples apart, asked of the model itself before it is trained."""

from __future__ import annotations

from typing import Any

import torch

TOLERANCE = 0.05
"""Relative difference of logits alone and packed: 16-bit arithmetic stays far below it."""
SEEN = 1e-3
"""Relative difference of a sample's logits behind two other ones: the same kernels, so next to none."""
_LENGTH = 12


def keeps_samples_apart(model: Any) -> bool:
    """Whether a sample has the same logits alone and packed behind others; costs a few passes over some tokens.

    Only models that build their mask from positions do (transformers' `create_causal_mask`, SDPA and eager); others
    would let samples attend to each other without a word. Some take another path in training than in evaluation
    (Unsloth), so both are asked, unless something is dropped at random in training.
    """
    training = model.training
    try:
        return all(_keeps_apart(model.train(mode)) for mode in ([False] if _drops(model) else [False, True]))
    except TypeError:
        return False  # it takes no positions
    finally:
        model.train(training)


def _keeps_apart(model: Any) -> bool:
    device = next(model.parameters()).device
    size = min(model.config.get_text_config().vocab_size, 1000)
    samples = torch.randint(size, (3, 1, _LENGTH), generator=torch.Generator().manual_seed(0)).to(device)
    positions = torch.arange(_LENGTH, device=device)[None]

    def last(*ids: torch.Tensor) -> torch.Tensor:
        """The logits of the last sample; with gradients, because some models take another path without."""
        given = {"input_ids": torch.cat(ids, 1), "position_ids": torch.cat([positions] * len(ids), 1)}
        logits: torch.Tensor = model(**given, use_cache=False).logits[:, -_LENGTH:]
        return logits.detach().float()

    first, other, second = samples
    alone, packed, behind_other = last(second), last(first, second), last(other, second)
    sees_nothing = (packed - behind_other).norm() <= SEEN * packed.norm()
    return bool(sees_nothing and (packed - alone).norm() <= TOLERANCE * alone.norm())


def _drops(model: Any) -> bool:
    layers = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())
    return layers or bool(getattr(model.config, "attention_dropout", 0))
