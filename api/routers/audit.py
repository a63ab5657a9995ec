"""`/v1/audit`: who did what, and to what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from api.dependencies import CallerDep, Limit, ServicesDep, strict_query
from opensloth.accounts.rows import AuditRow
from opensloth.events.records import rfc3339
from opensloth.jobs.views import Page

router = APIRouter(prefix="/v1/audit", tags=["people"], dependencies=[Depends(strict_query)])

Filter = Annotated[str | None, Query(max_length=256)]


class AuditEntry(BaseModel):
    """One thing that somebody did; `time` is RFC 3339, `object_id` what it was done to."""

    id: str
    object: Literal["audit_entry"] = "audit_entry"
    time: str
    actor: str
    team: str
    key_id: str | None = Field(description="The key that was used.")
    action: str
    object_id: str
    data: dict[str, Any]

    @classmethod
    def of(cls, row: AuditRow) -> AuditEntry:
        """The view of a stored row."""
        return cls(
            id=str(row.id),
            time=rfc3339(row.time),
            actor=row.actor,
            team=row.team,
            key_id=row.key_id,
            action=row.action,
            object_id=row.object_id,
            data=row.data,
        )


@router.get("")
def list_audit(
    services: ServicesDep,
    caller: CallerDep,
    actor: Filter = None,
    action: Annotated[
        str | None, Query(max_length=64, description="As `job.cancel`, or `job` for all of jobs.")
    ] = None,
    object_id: Filter = None,
    limit: Limit = 20,
    after: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="The `last_id` of the page before.")] = None,
) -> Page[AuditEntry]:
    """The log, newest first: all of it for an admin, what one did oneself for others."""
    rows, more = services.audit.list(caller, actor=actor, action=action, object_id=object_id, limit=limit, after=after)
    return Page.of([AuditEntry.of(row) for row in rows], more)
