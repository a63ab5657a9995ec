"""`/v1/fine_tuning/alpha/graders`: OpenAI's graders, checked and tried before a job is made with one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from api.body import JsonBody
from api.dependencies import LanesDep, ServicesDep, authenticated, strict_query
from api.openai.errors import OpenAIRoute
from opensloth.errors import FieldError, InvalidInput
from opensloth.rewards.openai_graders import bind_grader, reward_of
from opensloth.services import Services

if TYPE_CHECKING:
    from opensloth.rewards.trial import Trial

__all__ = ["reward_of", "router"]

router = APIRouter(
    prefix="/v1/fine_tuning/alpha/graders",
    tags=["fine-tuning"],
    dependencies=[Depends(authenticated), Depends(strict_query)],
    route_class=OpenAIRoute,
)

GRADER = {"type": "object", "required": ["type", "name"], "properties": {"type": {"type": "string"}}}
RUN_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["grader", "model_sample"],
                    "properties": {"grader": GRADER, "model_sample": {"type": "string"}, "item": {"type": "object"}},
                }
            }
        },
    }
}
VALIDATE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["grader"], "properties": {"grader": GRADER}},
            }
        },
    }
}


class GraderErrors(BaseModel):
    """What went wrong while grading; the reward is 0 then."""

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    sample_parse_error_details: str | None = None
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    invalid_variable_error_details: str | None = None
    other_error: bool = False
    other_error_details: str | None = None
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_server_error_details: str | None = None
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False


class GraderMetadata(BaseModel):
    """What was graded by what; `execution_time` in seconds."""

    name: str
    type: str
    errors: GraderErrors
    execution_time: float
    scores: dict[str, Any]
    token_usage: int | None = None
    sampled_model_name: str | None = None


class GraderRun(BaseModel):
    """The reward of one sample; `sub_rewards` are those of a multi grader's graders."""

    reward: float
    metadata: GraderMetadata
    sub_rewards: dict[str, Any]
    model_grader_token_usage_per_model: dict[str, Any] = Field(default_factory=dict)


class GraderValidation(BaseModel):
    """A grader that can be used."""

    grader: dict[str, Any]


@router.post("/run", openapi_extra=RUN_BODY)
async def run_grader(request: Request, body: JsonBody, services: ServicesDep, lanes: LanesDep) -> GraderRun:
    """What a grader gives for a sample of a model and an item of a dataset."""
    work, grader = await run_in_threadpool(_trial, body, services)
    trial = await lanes.graders.run(request, work)
    metadata = GraderMetadata(
        name=grader["name"],
        type=grader["type"],
        errors=_errors(trial.errors),
        execution_time=trial.seconds,
        scores=trial.scores or {grader["name"]: trial.reward},
    )
    return GraderRun(reward=trial.reward, metadata=metadata, sub_rewards=trial.scores)


def _trial(body: Any, services: Services) -> tuple[Callable[[], Trial], dict[str, Any]]:
    """The trial that is asked for, not begun yet, and its grader."""
    from opensloth.rewards.trial import try_grader

    given = _fields(body, ("grader", "model_sample", "item"), needed=("grader", "model_sample"))
    sample, item = given["model_sample"], given.get("item") or {}
    if not isinstance(sample, str):
        raise _wrong("model_sample", "must be text")
    if not isinstance(item, dict):
        raise _wrong("item", "must be an object, a row of the dataset")
    bound = bind_grader(given["grader"], services.rewards)
    return partial(try_grader, bound, services.rewards, sample, item), given["grader"]


@router.post("/validate", openapi_extra=VALIDATE_BODY)
def validate_grader(body: JsonBody, services: ServicesDep) -> GraderValidation:
    """The grader, if a job may have it; else what is wrong with it."""
    grader = _fields(body, ("grader",), needed=("grader",))["grader"]
    bind_grader(grader, services.rewards)
    return GraderValidation(grader=grader)


def _errors(found: dict[str, str]) -> GraderErrors:
    """By the kinds of `opensloth.rewards.trial`."""
    return GraderErrors(
        formula_parse_error="formula" in found,
        sample_parse_error="sample" in found,
        sample_parse_error_details=found.get("sample"),
        invalid_variable_error="variable" in found,
        invalid_variable_error_details=found.get("variable"),
        other_error="other" in found or "formula" in found,
        other_error_details=found.get("other") or found.get("formula"),
        python_grader_runtime_error="python" in found,
        python_grader_runtime_error_details=found.get("python"),
    )


def _fields(body: Any, known: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise _wrong("", "the body is a JSON object")
    errors = [FieldError(name, "is missing", "missing_required_parameter") for name in needed if name not in body]
    errors += [
        FieldError(name[:64], "there is no such field", "unknown_parameter")
        for name in sorted(body.keys() - set(known))
    ]
    if errors:
        raise InvalidInput(f"{errors[0].path}: {errors[0].message}", fields=errors)
    return body


def _wrong(path: str, message: str) -> InvalidInput:
    return InvalidInput(f"{path}: {message}" if path else message, fields=[FieldError(path, message)])
