"""`/v1/users`: the people and programs that keys speak for; admins make and change them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field, model_validator

from api.bodies import json_body
from api.body import JsonBody, parsed
from api.dependencies import CallerDep, ServicesDep, strict_query
from api.routers.limits import Limits, changes_of, limits_of
from opensloth.accounts.callers import Caller, Role
from opensloth.accounts.rows import DEFAULT_TEAM, UserRow
from opensloth.events.records import rfc3339
from opensloth.jobs.views import Page

router = APIRouter(prefix="/v1/users", tags=["people"], dependencies=[Depends(strict_query)])

Name = Annotated[str, Field(min_length=1, max_length=64)]
Account = Annotated[
    str | None,
    Field(pattern=r"^[a-z_][a-z0-9_.-]{0,31}$", description="The account on the hosts for the user's own commands."),
]


class NewUser(Limits):
    """A user to make; keys are made at /v1/keys."""

    name: Name
    role: Role = "member"
    team: Name = DEFAULT_TEAM
    account: Account = None


class UserChange(Limits):
    """What to change of a user; what is left out stays, null takes a limit away."""

    role: Role | None = None
    team: Name | None = None
    account: Account = None
    disabled: Annotated[bool | None, Field(description="Whether the user's keys are refused.")] = None

    @model_validator(mode="after")
    def _something(self) -> UserChange:
        if not self.model_fields_set:
            raise ValueError("give at least one field to change")
        for name in {"role", "team", "disabled"} & self.model_fields_set:
            if getattr(self, name) is None:
                raise ValueError(f"`{name}` cannot be null; leave it out to keep it")
        return self


class UserView(Limits):
    """A user; `account` is shown to admins and to the user. Times are RFC 3339."""

    name: str
    object: Literal["user"] = "user"
    role: str
    team: str
    account: str | None
    disabled: bool
    created_at: str

    @classmethod
    def of(cls, row: UserRow, caller: Caller) -> UserView:
        """The view of a stored row for `caller`."""
        return cls(
            name=row.name,
            role=row.role,
            team=row.team,
            account=row.account if caller.is_admin or caller.owner == row.name else None,
            disabled=row.disabled_at is not None,
            created_at=rfc3339(row.created_at),
            **limits_of(row),
        )


@router.get("")
def list_users(
    services: ServicesDep, caller: CallerDep, team: Annotated[str | None, Query(max_length=64)] = None
) -> Page[UserView]:
    """All users for an admin, those of one's own team for others; by name."""
    rows = services.users.list(caller, team)
    return Page.of([UserView.of(row, caller) for row in rows], key="name")


@router.post(
    "", status_code=201, openapi_extra=json_body(NewUser, member={"name": "mara", "team": "vision", "max_devices": 4})
)
def create_user(body: JsonBody, services: ServicesDep, caller: CallerDep) -> UserView:
    """Make a user (admins)."""
    new = parsed(NewUser, body)
    row = services.users.create(
        new.name, caller, role=new.role, team=new.team, account=new.account, limits=new.limits()
    )
    return UserView.of(row, caller)


@router.get("/{name}")
def get_user(name: str, services: ServicesDep, caller: CallerDep) -> UserView:
    """One user."""
    return UserView.of(services.users.get(name, caller), caller)


@router.patch(
    "/{name}",
    openapi_extra=json_body(UserChange, viewer={"role": "viewer"}, lock_out={"disabled": True}),
)
def change_user(name: str, body: JsonBody, services: ServicesDep, caller: CallerDep) -> UserView:
    """Change role, team, limits or account, or lock the user out (admins). There has to be an admin left.

    What a user has made stays with the team for which it was made.
    """
    change = parsed(UserChange, body)
    return UserView.of(services.users.update(name, caller, changes_of(change)), caller)


@router.delete("/{name}", status_code=204)
def delete_user(name: str, services: ServicesDep, caller: CallerDep) -> None:
    """Remove a user to whom nothing belongs, with the keys (admins); who has jobs, files or models is disabled."""
    services.users.delete(name, caller)
