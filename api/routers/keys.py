"""`/v1/keys`: API keys; admins make them for everybody, others for themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from api.bodies import body_of, json_body
from api.body import JsonBody, OptionalJsonBody, parsed
from api.dependencies import CallerDep, ServicesDep, strict_query
from api.examples import KEY_EXAMPLES
from api.routers.limits import Requests
from opensloth.accounts.callers import Role
from opensloth.accounts.rows import ApiKeyRow
from opensloth.accounts.scopes import SCOPES
from opensloth.events.records import rfc3339
from opensloth.jobs.views import Page

router = APIRouter(prefix="/v1/keys", tags=["keys"], dependencies=[Depends(strict_query)])

TEN_YEARS_S = 10 * 365 * 86_400


class NewKey(BaseModel):
    """A key to make; it never expires if `expires_in_s` is not set."""

    model_config = ConfigDict(extra="forbid")

    owner: Annotated[
        str,
        Field(max_length=64, description="Who or what will use it; who is not known becomes a user of `default`."),
    ]
    role: Annotated[Role, Field(description="The most it may do; the user's own role bounds it.")] = "member"
    scopes: Annotated[
        list[str] | None, Field(max_length=32, description=f"What it is for, all if not given: {', '.join(SCOPES)}.")
    ] = None
    expires_in_s: Annotated[float | None, Field(gt=0, le=TEN_YEARS_S, allow_inf_nan=False)] = None
    requests_per_minute: Annotated[
        Requests, Field(strict=True, description="For admins; null: what holds for its user.")
    ] = None


class KeyLimit(BaseModel):
    """What to change of a key."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    requests_per_minute: Annotated[Requests, Field(description="null: what holds for its user.")]


class Rotation(BaseModel):
    """How to replace a key."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: Annotated[
        float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False, description="How long the old one still works.")
    ] = 0.0
    expires_in_s: Annotated[
        float | None,
        Field(gt=0, le=TEN_YEARS_S, allow_inf_nan=False, description="For admins; else it ends as the old one."),
    ] = None


class KeyView(BaseModel):
    """A key without its secret; `key` is there only in the answer that made it. Times are RFC 3339."""

    id: str
    object: Literal["key"] = "key"
    owner: str
    role: str
    scopes: list[str] | None = Field(description="What it is for; null: all that the role allows.")
    prefix: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None = Field(description="To the hour.")
    requests_per_minute: int | None = Field(description="null: what holds for its user.")
    key: str | None = None

    @classmethod
    def of(cls, row: ApiKeyRow, key: str | None = None) -> KeyView:
        """The view of a stored row."""
        return cls(
            id=row.id,
            owner=row.owner,
            role=row.role,
            scopes=row.scopes,
            prefix=row.prefix,
            created_at=rfc3339(row.created_at),
            expires_at=_time(row.expires_at),
            revoked_at=_time(row.revoked_at),
            last_used_at=_time(row.last_used_at),
            requests_per_minute=row.requests_per_minute,
            key=key,
        )


@router.get("")
def list_keys(services: ServicesDep, caller: CallerDep) -> Page[KeyView]:
    """All keys for an admin, one's own for others; newest first."""
    rows = services.keys.list(caller)
    return Page.of([KeyView.of(row) for row in rows])


@router.post(
    "",
    status_code=201,
    openapi_extra=body_of(NewKey, KEY_EXAMPLES),
)
def create_key(response: Response, body: JsonBody, services: ServicesDep, caller: CallerDep) -> KeyView:
    """Make a key. The answer is the only place where it ever stands.

    Others than admins make keys for themselves, which do no more and last no longer than the key in use.
    """
    new = parsed(NewKey, body)
    row, key = services.keys.create(
        new.owner,
        new.role,
        new.expires_in_s,
        scopes=new.scopes,
        requests_per_minute=new.requests_per_minute,
        by=caller,
    )
    response.headers["Cache-Control"] = "no-store"
    return KeyView.of(row, key)


@router.post(
    "/{key_id}/rotate", status_code=201, openapi_extra=json_body(Rotation, required=False, a_day={"overlap_s": 86400})
)
def rotate_key(
    response: Response, key_id: str, body: OptionalJsonBody, services: ServicesDep, caller: CallerDep
) -> KeyView:
    """Make a key in place of this one, for the same, ending when it would have; this one ends now or after a while."""
    wish = parsed(Rotation, body)
    row, key = services.keys.rotate(key_id, caller, overlap_s=wish.overlap_s, expires_in_s=wish.expires_in_s)
    response.headers["Cache-Control"] = "no-store"
    return KeyView.of(row, key)


@router.patch("/{key_id}", openapi_extra=json_body(KeyLimit, a_slow_one={"requests_per_minute": 60}))
def change_key(key_id: str, body: JsonBody, services: ServicesDep, caller: CallerDep) -> KeyView:
    """Say how many requests a minute a key may send (admins)."""
    return KeyView.of(services.keys.limit(key_id, parsed(KeyLimit, body).requests_per_minute, caller))


@router.delete("/{key_id}")
def revoke_key(key_id: str, services: ServicesDep, caller: CallerDep) -> KeyView:
    """End a key now: one's own, or as an admin any but the last of an admin."""
    return KeyView.of(services.keys.revoke(key_id, caller))


def _time(value: float | None) -> str | None:
    return None if value is None else rfc3339(value)
