"""`/v1/jobs/{id}/evaluations`: a job's result against its base; each evaluation is a job of its own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field

from api.bodies import json_body
from api.body import JsonBody
from api.dependencies import CallerDep, ServicesDep, strict_query
from api.submission import IdempotencyKey, answered
from opensloth.jobs.evaluation_spec import EvaluationSpec
from opensloth.jobs.evaluations import EvaluationView
from opensloth.jobs.views import JobView, Page

router = APIRouter(prefix="/v1/jobs/{job_id}/evaluations", tags=["jobs"], dependencies=[Depends(strict_query)])

EXAMPLE = {
    "graders": [
        {
            "type": "string_check",
            "name": "right",
            "input": "{{sample.output_text}}",
            "reference": "{{item.reference}}",
            "operation": "ilike",
        }
    ],
    "rows": 200,
}


class EvaluationRow(BaseModel):
    """One held-out row: its number in the file, what was asked, what both models made of it, and their scores."""

    object: Literal["evaluation.row"] = "evaluation.row"
    row: int
    prompt: Any
    base_answer: str | None = None
    result_answer: str | None = None
    implicit_reward_margin: float | None = None
    scores: dict[str, dict[str, float]]
    changed: bool


class EvaluationRows(BaseModel):
    """Rows in the order of the file; pass the last `row` as `after` for the next."""

    object: Literal["list"] = "list"
    data: list[EvaluationRow] = Field(default_factory=list)
    has_more: bool = False


@router.post("", status_code=201, openapi_extra=json_body(EvaluationSpec, a_check_of_strings=EXAMPLE))
def evaluate_job(
    response: Response,
    job_id: str,
    body: JsonBody,
    services: ServicesDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey,
) -> JobView:
    """Ask the job's result and the model that it was trained from the same held-out rows, and compare the scores."""
    submitted = services.evaluations.submit(job_id, body, caller, idempotency_key)
    return answered(response, submitted, f"/v1/jobs/{job_id}/evaluations")


@router.get("")
def list_evaluations(job_id: str, services: ServicesDep, caller: CallerDep) -> Page[EvaluationView]:
    """The newest 100 evaluations of the job, each with what it found."""
    found = services.evaluations.list(job_id, caller)
    return Page.of(found)


@router.get("/{evaluation_id}")
def get_evaluation(job_id: str, evaluation_id: str, services: ServicesDep, caller: CallerDep) -> EvaluationView:
    """One evaluation: for each measure the means of both models, their difference and its 95% interval."""
    return services.evaluations.get(job_id, evaluation_id, caller)


@router.get("/{evaluation_id}/rows")
def get_rows(
    job_id: str,
    evaluation_id: str,
    services: ServicesDep,
    caller: CallerDep,
    after: Annotated[int, Query(ge=0, le=2**53, description="The `row` of the last one seen.")] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    changed: Annotated[bool | None, Query(description="Only rows whose scores differ, or do not.")] = None,
) -> EvaluationRows:
    """The rows with both answers and their scores."""
    rows, more = services.evaluations.rows(job_id, evaluation_id, caller, after=after, limit=limit, changed=changed)
    return EvaluationRows(data=[EvaluationRow.model_validate(row) for row in rows], has_more=more)
