"""`/v1/me`: who one is here, with which key, and what one has of what one may have."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from api.dependencies import CallerDep, ServicesDep, strict_query
from api.routers.keys import KeyView
from api.routers.limits import Limits, limits_of
from opensloth.accounts.rows import TeamRow, UserRow
from opensloth.jobs.quotas import held

router = APIRouter(prefix="/v1/me", tags=["people"], dependencies=[Depends(strict_query)])


class Has(BaseModel):
    """What somebody has at the moment; `device_hours` in this calendar month (UTC)."""

    devices: int
    queued: int
    device_hours: float
    bytes: int


class Standing(BaseModel):
    """What a user or a team may have, and has."""

    name: str
    may_have: Limits
    has: Has


class Me(BaseModel):
    """The caller: `role` is what the key in use allows, at most the user's."""

    object: Literal["me"] = "me"
    name: str
    team: str
    role: str
    scopes: list[str] | None = Field(description="What the key is for; null: all that the role allows.")
    key: Annotated[KeyView | None, Field(description="The key in use; null where the server asks for none.")]
    user: Standing
    its_team: Standing


@router.get("")
def show_me(services: ServicesDep, caller: CallerDep) -> Me:
    """Who the key in use stands for, what it may do, and how far the quotas are used."""
    settings = services.settings
    with services.database.read() as session:
        user, team = session.get(UserRow, caller.owner), session.get(TeamRow, caller.team)
        mine = Has(**vars(held(session, settings, "user", caller.owner)))
        ours = Has(**vars(held(session, settings, "team", caller.team)))
    key = services.keys.get(caller.key_id)
    return Me(
        name=caller.owner,
        team=caller.team,
        role=caller.role,
        scopes=None if caller.scopes is None else sorted(caller.scopes),
        key=None if key is None else KeyView.of(key),
        user=Standing(name=caller.owner, may_have=Limits(**(limits_of(user) if user else {})), has=mine),
        its_team=Standing(name=caller.team, may_have=Limits(**(limits_of(team) if team else {})), has=ours),
    )
