"""A reward as another package would add it."""

from __future__ import annotations

from opensloth.rewards import Params, Reward, register_reward


class StartsWithParams(Params):
    """What a completion begins with."""

    text: str
    """The beginning."""


def score(params: StartsWithParams, completions, rows) -> list[float]:
    """1 for completions that begin so."""
    return [float(completion.startswith(params.text)) for completion in completions]


STARTS_WITH = register_reward(Reward("starts_with", "1 if it begins so.", StartsWithParams, score))
