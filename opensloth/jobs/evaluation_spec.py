"""The body of `POST /v1/jobs/{id}/evaluations`: read strictly from a client, tolerantly from the database."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.spec import MAX_TIME_LIMIT_S, Priority, parse_duration
from opensloth.jobs.spec_shape import describe_errors, readable
from opensloth.method_args import MAX_REWARDS

SCHEMA_VERSION = 1


class EvaluationSpec(BaseModel):
    """How a job's result is compared with the model that it was trained from."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True)

    judge: Literal["graders", "preferences"] | None = None
    """`graders` score what both models answer; `preferences` ask which of two answers each finds likelier. If not set,
    preferences for a job of DPO or ORPO without graders, else graders."""
    graders: list[Any] = Field(default_factory=list, max_length=MAX_REWARDS)
    """Rewards of `GET /v1/rewards` (names, or objects of `name` and `params`) or OpenAI's graders; if not set, the
    rewards that a GRPO job was trained with."""
    dataset: str | None = Field(default=None, pattern=r"^file-[A-Za-z0-9_-]{1,64}$")
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
    time_limit: Annotated[int | None, BeforeValidator(parse_duration)] = Field(default=None, ge=1, le=MAX_TIME_LIMIT_S)
    """Time on devices after which it is stopped, in seconds or as "2h"; none when not set."""
    priority: Priority = "normal"
    """Class in the queue; urgent is for admins."""
    max_retries: int = Field(default=2, ge=0, le=100)
    """Times a failed attempt is tried again, a count."""
    metadata: dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=16
    )
    """Up to 16 pairs of text for your own use: keys up to 64 characters, values up to 512."""


def parse_evaluation_spec(body: Any) -> EvaluationSpec:
    """Check what a client posted; raises InvalidInput with one FieldError for each problem."""
    if not isinstance(body, dict):
        problem = FieldError("", "an evaluation is a JSON object", "malformed")
        raise InvalidInput("the body is not valid", fields=[problem])
    known = list(EvaluationSpec.model_fields)
    errors = []
    for name in sorted(body.keys() - set(known), key=str)[:10]:
        near = difflib.get_close_matches(str(name)[:64], known, n=1)
        meant = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known)}"
        errors.append(FieldError(readable(name), f"there is no such field; {meant}", "unknown_field"))
    spec = None
    try:
        spec = EvaluationSpec.model_validate(body, strict=True)
    except ValidationError as invalid:
        errors += describe_errors(invalid, body)
    if spec is not None and spec.judge == "preferences" and spec.graders:
        errors.append(FieldError("graders", 'only for "judge": "graders"; leave it out'))
    if errors or spec is None:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors)
    return spec


def load_evaluation_spec(stored: dict[str, Any]) -> EvaluationSpec:
    """Read a spec that was accepted once."""
    return EvaluationSpec.model_validate(stored)
