"""What a job says about a reward: its name, weight and parameters; and what a server allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from opensloth.method_args import RewardSpec

__all__ = ["Column", "Params", "RewardPolicy", "RewardSpec", "Row"]

Row = Mapping[str, Any]

Column = Annotated[str, Field(min_length=1, max_length=256)]


class Params(BaseModel):
    """Base of every reward's parameters: strict, nothing unknown, no NaN."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True, use_attribute_docstrings=True
    )


@dataclass(frozen=True)
class RewardPolicy:
    """What the administrator allows: URLs of `http` rewards, the folder of `file:` rewards, how long a call may take,
    and whether a job may bring Python of its own (`python`).

    `call_timeout_s` bounds one call of one reward on one batch, in seconds; rewards that run code or work completion
    by completion add to it what each completion may take.
    """

    urls: Sequence[str] = field(default_factory=tuple)
    folder: Path | None = None
    call_timeout_s: float = 60.0
    python: bool = False
