"""The body of `POST /v1/jobs/{id}/evaluations`: read strictly from a client, tolerantly from the database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from opensloth.errors import FieldError
from opensloth.jobs.spec import Metadata, Priority, TimeLimit
from opensloth.jobs.spec_shape import parse_flat
from opensloth.method_args import MAX_REWARDS

SCHEMA_VERSION = 1
FILE_ID: dict[str, Any] = {"pattern": r"^file-[A-Za-z0-9_-]{1,64}$"}


def _file_id(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(FILE_ID["pattern"], value):
        raise ValueError("should be the id that POST /v1/files gave the rows (`file-...`)")
    return value


class EvaluationSpec(BaseModel):
    """How a job's result is compared with the model that it was trained from."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, defer_build=True, use_attribute_docstrings=True)

    judge: Literal["graders", "preferences"] | None = None
    """`graders` score what both models answer; `preferences` ask which of two answers each finds likelier. If not set,
    preferences for a job of DPO or ORPO without graders, else graders."""
    graders: list[Any] = Field(default_factory=list, max_length=MAX_REWARDS)
    """Rewards of `GET /v1/rewards` (names, or objects of `name` and `params`) or OpenAI's graders; if not set, the
    rewards that a GRPO job was trained with."""
    dataset: Annotated[str | None, AfterValidator(_file_id)] = Field(default=None, json_schema_extra=FILE_ID)
    """The file with the rows; if not set, what the job evaluated on: its `eval_dataset`, or its `eval_split`."""
    dataset_form: str | None = Field(default=None, max_length=64)
    """Form of the rows; by the first ones when not set."""
    rows: int = Field(default=200, ge=1, le=10_000)
    """At most so many rows, evenly from the whole."""
    max_completion_tokens: int = Field(default=256, ge=1, le=65_536)
    """Longest answer, in tokens."""
    temperature: float = Field(default=0.0, ge=0, le=10)
    """Randomness of the answers, a plain number; 0 takes the likeliest token each time."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Of the sampling."""
    name: str = Field(default="", max_length=128)
    """What people call it; the source's name when not set."""
    time_limit: TimeLimit | None = None
    """Time on devices after which it is stopped, in seconds or as "2h"; none when not set."""
    priority: Priority = "normal"
    """Class in the queue; urgent is for admins."""
    max_retries: int = Field(default=2, ge=0, le=100)
    """Times a failed attempt is tried again, a count."""
    metadata: Metadata = Field(default_factory=dict)
    """Up to 16 pairs of text for your own use: keys up to 64 characters, values up to 512."""


def parse_evaluation_spec(body: Any) -> EvaluationSpec:
    """Check what a client posted; raises InvalidInput with one FieldError for each problem."""
    return parse_flat(body, EvaluationSpec, "an evaluation", _check_graders)


def _check_graders(body: dict[str, Any]) -> Iterator[FieldError]:
    if body.get("judge") == "preferences" and body.get("graders"):
        yield FieldError("graders", 'only for "judge": "graders"; leave it out')


def load_evaluation_spec(stored: dict[str, Any]) -> EvaluationSpec:
    """Read a spec that was accepted once."""
    return EvaluationSpec.model_validate(stored)
