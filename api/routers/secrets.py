"""`/v1/secrets`: one's own secrets and those of the team, written and never shown."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.bodies import body_of
from api.body import JsonBody, parsed
from api.dependencies import CallerDep, ServicesDep, strict_query
from opensloth.accounts.rows import TEAM_HOLDER, SecretRow
from opensloth.accounts.secrets import MOST_CHARACTERS
from opensloth.events.records import rfc3339
from opensloth.jobs.views import Page

router = APIRouter(prefix="/v1/secrets", tags=["secrets"], dependencies=[Depends(strict_query)])


class NewSecret(BaseModel):
    """A secret to keep, e.g. a token of the hub."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True, hide_input_in_errors=True)

    name: Annotated[str, Field(max_length=64, description="What jobs will call it.")]
    value: Annotated[str, Field(max_length=MOST_CHARACTERS, description="Kept encrypted; nothing shows it again.")]
    team: Annotated[
        str | None, Field(max_length=64, description="The team that it is for; your own alone if not given.")
    ] = None


class SecretView(BaseModel):
    """A secret without its value; times are RFC 3339."""

    name: str
    object: Literal["secret"] = "secret"
    team: str | None = Field(None, description="Whose jobs may use it; null: your own alone.")
    created_at: str
    updated_at: str

    @classmethod
    def of(cls, row: SecretRow) -> SecretView:
        """The view of a stored row."""
        team = row.owner.removeprefix(TEAM_HOLDER) if row.owner.startswith(TEAM_HOLDER) else None
        return cls(name=row.name, team=team, created_at=rfc3339(row.created_at), updated_at=rfc3339(row.updated_at))


class SecretDeleted(BaseModel):
    """A secret that is gone."""

    name: str
    object: Literal["secret"] = "secret"
    deleted: bool = True


@router.get("")
def list_secrets(services: ServicesDep, caller: CallerDep) -> Page[SecretView]:
    """The names of one's own secrets and of the team's."""
    rows = services.secrets.list(caller)
    return Page.of([SecretView.of(row) for row in rows], key="name")


@router.post(
    "",
    status_code=201,
    responses={200: {"model": SecretView, "description": "It was there and is replaced"}},
    openapi_extra=body_of(NewSecret),
)
def put_secret(response: Response, body: JsonBody, services: ServicesDep, caller: CallerDep) -> SecretView:
    """Store a secret, or replace the one of that name (200).

    A job finds the own one of a name before the team's.
    """
    new = parsed(NewSecret, body)
    row, is_new = services.secrets.put(new.name, new.value, caller, new.team)
    if not is_new:
        response.status_code = 200
    return SecretView.of(row)


@router.delete("/{name}")
def delete_secret(
    name: str,
    services: ServicesDep,
    caller: CallerDep,
    team: Annotated[str | None, Query(max_length=64, description="The team whose secret it is.")] = None,
) -> SecretDeleted:
    """Forget a secret now; a job that still needs it fails."""
    services.secrets.delete(name, caller, team)
    return SecretDeleted(name=name)
