"""`/v1/jobs/estimate`: what a job would need, where it would fit, and when it would start."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from api.body import JsonBody
from api.dependencies import CallerDep, ServicesDep, strict_query
from api.examples import ESTIMATE_EXAMPLE
from api.routers.jobs import JOB_BODY
from opensloth.jobs.estimates import EstimateView

router = APIRouter(prefix="/v1/jobs/estimate", tags=["jobs"], dependencies=[Depends(strict_query)])

ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"example": ESTIMATE_EXAMPLE}}}}


@router.post("", openapi_extra=JOB_BODY, responses=ANSWER)
def estimate_job(body: JsonBody, services: ServicesDep, caller: CallerDep) -> EstimateView:
    """Estimate a job without submitting it: the same body, checked in the same way.

    Memory on each device by what it is for, disk, time, the devices that would hold it, and the expected start. What
    jobs of the same shape were measured at takes the place of the estimate. See docs/memory.md for its accuracy.
    """
    return services.estimates.estimate(body, caller)
