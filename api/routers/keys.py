"""`/v1/keys`: API keys; making and revoking them is for admins."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from api.body import JsonBody, parsed
from api.dependencies import CallerDep, ServicesDep, strict_query
from api.examples import KEY_EXAMPLES
from opensloth.accounts.rows import ApiKeyRow
from opensloth.events.records import rfc3339
from opensloth.jobs.views import Page

router = APIRouter(prefix="/v1/keys", tags=["keys"], dependencies=[Depends(strict_query)])

TEN_YEARS_S = 10 * 365 * 86_400


class NewKey(BaseModel):
    """A key to make; it never expires if `expires_in_s` is not set."""

    model_config = ConfigDict(extra="forbid")

    owner: Annotated[str, Field(max_length=64, description="Who or what will use it.")]
    role: Literal["admin", "member"] = "member"
    expires_in_s: Annotated[float | None, Field(gt=0, le=TEN_YEARS_S, allow_inf_nan=False)] = None


class KeyView(BaseModel):
    """A key without its secret; `key` is there only in the answer that made it. Times are RFC 3339."""

    id: str
    object: Literal["key"] = "key"
    owner: str
    role: str
    prefix: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    key: str | None = None

    @classmethod
    def of(cls, row: ApiKeyRow, key: str | None = None) -> KeyView:
        """The view of a stored row."""
        expires, revoked = row.expires_at, row.revoked_at
        return cls(
            id=row.id,
            owner=row.owner,
            role=row.role,
            prefix=row.prefix,
            created_at=rfc3339(row.created_at),
            expires_at=None if expires is None else rfc3339(expires),
            revoked_at=None if revoked is None else rfc3339(revoked),
            key=key,
        )


@router.get("")
def list_keys(services: ServicesDep, caller: CallerDep) -> Page[KeyView]:
    """All keys for an admin, one's own for others; newest first."""
    rows = [row for row in services.keys.list() if caller.is_admin or row.owner == caller.owner]
    return Page(
        data=[KeyView.of(row) for row in rows],
        first_id=rows[0].id if rows else None,
        last_id=rows[-1].id if rows else None,
    )


@router.post(
    "",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": NewKey.model_json_schema(), "examples": KEY_EXAMPLES}},
        }
    },
)
def create_key(response: Response, body: JsonBody, services: ServicesDep, caller: CallerDep) -> KeyView:
    """Make a key. The answer is the only place where it ever stands."""
    caller.require_admin("make keys")
    new = parsed(NewKey, body)
    row, key = services.keys.create(new.owner, new.role, new.expires_in_s)
    response.headers["Cache-Control"] = "no-store"
    return KeyView.of(row, key)


@router.delete("/{key_id}")
def revoke_key(key_id: str, services: ServicesDep, caller: CallerDep) -> KeyView:
    """End a key now."""
    caller.require_admin("revoke keys")
    return KeyView.of(services.keys.revoke(key_id))
