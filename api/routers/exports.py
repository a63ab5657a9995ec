"""`/v1/jobs/{id}/exports`: a job's result in other forms; each export is a job of its own."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from api.bodies import body_of
from api.body import JsonBody
from api.dependencies import CallerDep, ServicesDep, strict_query
from api.examples import EXPORT_EXAMPLES
from api.submission import IdempotencyKey, answered
from opensloth.jobs.export_spec import ExportSpec
from opensloth.jobs.views import JobView, Page

router = APIRouter(prefix="/v1/jobs/{job_id}/exports", tags=["jobs"], dependencies=[Depends(strict_query)])


@router.post("", status_code=201, openapi_extra=body_of(ExportSpec, EXPORT_EXAMPLES))
def export_job(
    response: Response,
    job_id: str,
    body: JsonBody,
    services: ServicesDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey,
) -> JobView:
    """Make the job's result a merged checkpoint, a GGUF file or a pushed adapter. The files are the export's artifacts.

    Each is loaded and compared with the model that it was made from before the export has succeeded.
    """
    return answered(response, services.exports.submit(job_id, body, caller, idempotency_key))


@router.get("")
def list_exports(job_id: str, services: ServicesDep, caller: CallerDep) -> Page[JobView]:
    """The newest 100 exports of the job."""
    found = services.exports.jobs_of(job_id, caller)
    return Page.of(found)
