"""`/v1/jobs`: submit, list and show; job_control.py has what changes a job."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import PlainTextResponse

from api.bodies import body_of
from api.body import JsonBody
from api.dependencies import After, CallerDep, Limit, ServicesDep, strict_query
from api.examples import JOB_EXAMPLES
from api.submission import IdempotencyKey, answered
from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.script import script_of
from opensloth.jobs.spec import JobSpec
from opensloth.jobs.views import JobView, Page

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(strict_query)])

_METADATA = re.compile(r"metadata(?:\[(?P<bracket>[^\]]{1,64})\]|\.(?P<dot>.{1,64}))")
MAX_FILTERS = 16

JOB_BODY = body_of(JobSpec, JOB_EXAMPLES)


@router.post("", status_code=201, openapi_extra=JOB_BODY)
def submit_job(
    response: Response,
    body: JsonBody,
    services: ServicesDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey,
) -> JobView:
    """Submit a job. What is not set is resolved by method, engine and device; the job shows to what, and why."""
    return answered(response, services.jobs.submit(body, caller, idempotency_key))


@router.get("")
def list_jobs(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    state: Annotated[list[str] | None, Query(description="Once for each state that is wanted.")] = None,
    owner: Annotated[str | None, Query(max_length=64)] = None,
    metadata: Annotated[str | None, Query(description="`metadata[key]=value`, once for each pair.")] = None,
    limit: Limit = 20,
    after: After = None,
) -> Page[JobView]:
    """Jobs, newest first. `metadata[key]=value` keeps those with that pair."""
    states = [name for entry in state or [] for name in entry.split(",")]
    pairs = metadata_filter(request)
    jobs, more = services.jobs.list(caller, states=states, owner=owner, metadata=pairs, limit=limit, after=after)
    return Page.of(jobs, more)


@router.get("/{job_id}")
def get_job(job_id: str, services: ServicesDep, caller: CallerDep) -> JobView:
    """One job."""
    return services.jobs.get(job_id, caller)


@router.get("/{job_id}/script", response_class=PlainTextResponse)
def get_script(job_id: str, services: ServicesDep, caller: CallerDep) -> str:
    """A bare TRL script that trains the same without OpenSloth."""
    return script_of(services.database, services.models, job_id, caller)


def metadata_filter(request: Request) -> dict[str, str]:
    """The pairs of `metadata[key]=value` or `metadata.key=value`; raises InvalidInput for another form."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if not name.startswith("metadata"):
            continue
        match = _METADATA.fullmatch(name)
        if match is None:
            message = "write `metadata[key]=value`"
            raise InvalidInput("a filter is not valid", fields=[FieldError(name[:64], message)])
        found[match["bracket"] or match["dot"]] = value
    if len(found) > MAX_FILTERS:
        raise InvalidInput("too many filters", fields=[FieldError("metadata", f"at most {MAX_FILTERS} pairs")])
    return found
