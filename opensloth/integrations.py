"""Where the metrics of a job go besides the job itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

WANDB_SECRET = "wandb"
"""The secret with the key of Weights & Biases where a job names none."""


def _name(value: str) -> str:
    if not value.isprintable() or set(value) & set("/\\#?%:"):
        raise ValueError("a name as it is at Weights & Biases, without / \\ # ? % :")
    return value


Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_name)]


class WandbIntegration(BaseModel):
    """The run at Weights & Biases that a job's metrics go to; its id is the job's."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, defer_build=True, use_attribute_docstrings=True)

    type: Literal["wandb"]
    """The service."""
    project: Name
    """The project there; it is made if there is none."""
    name: str | None = Field(default=None, min_length=1, max_length=128)
    """What the run is called; the job's id if not set."""
    entity: Name | None = None
    """The team or user there; that of the key if not set."""
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list, max_length=32)
    """Tags of the run."""
