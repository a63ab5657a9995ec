"""`/v1/gc`: clean the storage."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from api.bodies import json_body
from api.body import OptionalJsonBody, parsed
from api.dependencies import CallerDep, ServicesDep, strict_query
from opensloth.jobs.retention import GcReport

router = APIRouter(prefix="/v1/gc", tags=["server"], dependencies=[Depends(strict_query)])


class Gc(BaseModel):
    """How to clean."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    dry_run: Annotated[bool, Field(description="Only say what would go.")] = False


@router.post("", openapi_extra=json_body(Gc, required=False, only_look={"dry_run": True}, clean={}))
def clean(body: OptionalJsonBody, services: ServicesDep, caller: CallerDep) -> GcReport:
    """Remove what is older than the settings keep it, and what is in storage but not in the database (admins)."""
    return services.retention.collect(caller, dry_run=parsed(Gc, body).dry_run)
