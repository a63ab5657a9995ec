"""What a job says about a reward: its name, weight and parameters; and what a server allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Row = Mapping[str, Any]
MAX_NAME = 128

Column = Annotated[str, Field(min_length=1, max_length=256)]


class Params(BaseModel):
    """Base of every reward's parameters: strict, nothing unknown, no NaN."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class RewardSpec(BaseModel):
    """One entry of `reward_functions`; a plain string means its name."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=MAX_NAME)
    """A reward that `GET /v1/rewards` lists, or `file:NAME` for one from the server's rewards folder."""
    weight: float = Field(default=1.0, ge=-1e6, le=1e6)
    """What its scores are multiplied by before the rewards are added up, a plain number."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The reward's own parameters."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class RewardPolicy:
    """What the administrator allows: URLs of `http` rewards, the folder of `file:` rewards, how long a call may take.

    `call_timeout_s` bounds one call of one reward on one batch, in seconds; rewards that run code or work completion
    by completion add to it what each completion may take.
    """

    urls: Sequence[str] = field(default_factory=tuple)
    folder: Path | None = None
    call_timeout_s: float = 60.0
