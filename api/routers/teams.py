"""`/v1/teams`: who sees whose work, and what a team may have."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from api.bodies import json_body
from api.body import JsonBody, parsed
from api.dependencies import CallerDep, ServicesDep, strict_query
from api.routers.limits import Limits, changes_of, limits_of
from opensloth.accounts.rows import TeamRow
from opensloth.events.records import rfc3339
from opensloth.jobs.views import Page

router = APIRouter(prefix="/v1/teams", tags=["people"], dependencies=[Depends(strict_query)])


class NewTeam(Limits):
    """A team to make."""

    name: Annotated[str, Field(min_length=1, max_length=64)]


class TeamChange(Limits):
    """What to change of a team; what is left out stays."""


class TeamView(Limits):
    """A team; times are RFC 3339."""

    name: str
    object: Literal["team"] = "team"
    created_at: str

    @classmethod
    def of(cls, row: TeamRow) -> TeamView:
        """The view of a stored row."""
        return cls(name=row.name, created_at=rfc3339(row.created_at), **limits_of(row))


@router.get("")
def list_teams(services: ServicesDep, caller: CallerDep) -> Page[TeamView]:
    """All teams for an admin, one's own for others; by name."""
    rows = services.teams.list(caller)
    return Page.of([TeamView.of(row) for row in rows], key="name")


@router.post(
    "", status_code=201, openapi_extra=json_body(NewTeam, half_the_box={"name": "vision", "share": 2, "max_devices": 4})
)
def create_team(body: JsonBody, services: ServicesDep, caller: CallerDep) -> TeamView:
    """Make a team (admins)."""
    new = parsed(NewTeam, body)
    return TeamView.of(services.teams.create(new.name, caller, new.limits()))


@router.get("/{name}")
def get_team(name: str, services: ServicesDep, caller: CallerDep) -> TeamView:
    """One team."""
    return TeamView.of(services.teams.get(name, caller))


@router.patch("/{name}", openapi_extra=json_body(TeamChange, no_limit_on_devices={"max_devices": None}))
def change_team(name: str, body: JsonBody, services: ServicesDep, caller: CallerDep) -> TeamView:
    """Change a team's share and limits (admins); what is left out stays, null takes a limit away."""
    return TeamView.of(services.teams.update(name, caller, changes_of(parsed(TeamChange, body))))


@router.delete("/{name}", status_code=204)
def delete_team(name: str, services: ServicesDep, caller: CallerDep) -> None:
    """Remove a team that nobody is in and nothing belongs to (admins)."""
    services.teams.delete(name, caller)
