"""The reward `length`: completions as long as wanted, in characters, words or tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from opensloth.rewards.failures import RowProblem
from opensloth.rewards.registry import Reward, register_reward
from opensloth.rewards.spec import Params, Row

MAX_LENGTH = 10_000_000
TOKEN_COUNT = "completion_tokens"
"""The key of a row under which the trainer says how many tokens the completion has."""


class LengthParams(Params):
    """The lengths that are wanted, and how fast the reward falls beside them."""

    unit: Literal["characters", "words", "tokens"] = "words"
    """What is counted; tokens as the model made them."""
    min: int | None = Field(default=None, ge=0, le=MAX_LENGTH)
    """The shortest length that gets 1, in units."""
    max: int | None = Field(default=None, ge=0, le=MAX_LENGTH)
    """The longest length that gets 1, in units."""
    target: int | None = Field(default=None, ge=0, le=MAX_LENGTH)
    """The one length that gets 1, in units; instead of `min` and `max`."""
    tolerance: int = Field(default=0, ge=0, le=MAX_LENGTH)
    """Over how many units beyond that the reward falls from 1 to 0, linearly; 0 falls at once."""

    @model_validator(mode="after")
    def _some_length(self) -> Self:
        if self.target is not None and (self.min is not None or self.max is not None):
            raise ValueError("set `target`, or `min` and `max`, not both")
        if self.target is None and self.min is None and self.max is None:
            raise ValueError("set `target`, `min` or `max`")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


def score_length(params: LengthParams, completions: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """1 inside the wanted lengths, falling to 0 over `tolerance` units outside."""
    return [_score(params, _length(params, *pair)) for pair in zip(completions, rows, strict=True)]


def _length(params: LengthParams, completion: str, row: Row) -> int:
    if params.unit == "characters":
        return len(completion)
    if params.unit == "words":
        return len(completion.split())
    count = row.get(TOKEN_COUNT)
    if not isinstance(count, int):
        raise RowProblem("the number of tokens is known in training only; count words or characters")
    return count


def _score(params: LengthParams, length: int) -> float:
    least = params.target if params.target is not None else params.min
    most = params.target if params.target is not None else params.max
    below = 0 if least is None else least - length
    above = 0 if most is None else length - most
    beyond = max(below, above, 0)
    return max(0.0, 1.0 - beyond / (params.tolerance + 1)) if params.tolerance else float(beyond == 0)


register_reward(
    Reward(
        name="length",
        description="1 if the completion is as long as wanted, falling to 0 beside that.",
        params=LengthParams,
        score=score_length,
    )
)
