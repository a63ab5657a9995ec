"""Whether a model keeps packed samples apart, asked of the model itself before it is trained."""

from __future__ import annotations

from typing import Any

import torch

TOLERANCE = 0.05
"""Relative difference of logits: 16-bit arithmetic stays far below it, a sample that sees another far above."""


def keeps_samples_apart(model: Any) -> bool:
    """Whether a sample has the same logits alone and packed behind another; costs two passes over some tokens.

    Only models that build their mask from positions do (transformers' `create_causal_mask`, SDPA and eager); others
    would let samples attend to each other without a word.
    """
    device = next(model.parameters()).device
    size = min(model.config.get_text_config().vocab_size, 1000)
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(size, (2, 1, 12), generator=generator).to(device)
    positions = torch.arange(12, device=device)[None]
    training = model.training
    model.eval()
    both, both_positions = torch.cat([first, second], 1), torch.cat([positions, positions], 1)
    try:
        # With gradients, because some models take another path through attention without.
        alone = model(input_ids=second, position_ids=positions, use_cache=False).logits
        packed = model(input_ids=both, position_ids=both_positions, use_cache=False).logits[:, 12:]
    except TypeError:
        return False  # it takes no positions
    finally:
        model.train(training)
    alone, packed = alone.detach().float(), packed.detach().float()
    return bool((packed - alone).norm() <= TOLERANCE * alone.norm())
