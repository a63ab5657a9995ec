"""Which of the faster parts a model gets."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)


def speed_up(model: Any) -> dict[str, int]:
    """Puts the faster parts into a model that transformers and PEFT made; returns how many of each.

    What a part does not know it leaves alone: such a model trains as transformers has it.
    """
    from opensloth.training.speed.layers import fuse_gates, fuse_norms
    from opensloth.training.speed.lora import fuse_lora
    from opensloth.training.speed.loss import install
    from opensloth.training.speed.padding_free import drop_padding

    install()
    done = {
        "lora": fuse_lora(model),
        "norms": fuse_norms(model),
        "gates": fuse_gates(model),
        "padding_free": int(drop_padding(model)),
    }
    logger.info("faster parts: %s", ", ".join(f"{count} {name}" for name, count in done.items()))
    return done
