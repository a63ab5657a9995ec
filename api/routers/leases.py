"""`/v1/leases`: commands of one's own on the devices, as jobs."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from api.bodies import body_of
from api.body import JsonBody
from api.dependencies import CallerDep, ServicesDep, strict_query
from api.examples import LEASE_EXAMPLES
from api.submission import IdempotencyKey, answered
from opensloth.jobs.command_spec import CommandSpec
from opensloth.jobs.views import JobView

router = APIRouter(prefix="/v1/leases", tags=["jobs"], dependencies=[Depends(strict_query)])


@router.post("", status_code=201, openapi_extra=body_of(CommandSpec, LEASE_EXAMPLES))
def lease(
    response: Response,
    body: JsonBody,
    services: ServicesDep,
    caller: CallerDep,
    idempotency_key: IdempotencyKey,
) -> JobView:
    """Run a command on a worker's host under the caller's own account there, if an admin has turned that on.

    The answer is a job of kind `command`: `/v1/jobs/{id}/logs` streams its output, its `result` has the exit code, and
    it is queued, cancelled and charged as any other. It is never run a second time by itself.
    """
    return answered(response, services.leases.submit(body, caller, idempotency_key))
