"""Who sends a request, and what that one may see and change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy import ColumnElement, true

from opensloth.accounts.rows import DEFAULT_TEAM
from opensloth.errors import FieldError, NotAllowed, NotFound

Role = Literal["admin", "member", "viewer"]
ROLES: tuple[Role, ...] = ("viewer", "member", "admin")
"""From the least to the most."""


class Owned(Protocol):
    """A row that belongs to a team; those of the team None are for everybody."""

    @property
    def team(self) -> Any:
        """Name of the team that sees it."""


OwnedT = TypeVar("OwnedT", bound=Owned)


@dataclass(frozen=True)
class Caller:
    """Who sends a request: a user of one team, with the part of the own role that the key carries."""

    owner: str
    role: Role
    team: str = DEFAULT_TEAM
    scopes: frozenset[str] | None = None
    """What the key is for, as `jobs:write`; None: all that the role allows."""
    key_id: str | None = None
    requests_per_minute: int | None = None
    """What an admin set for the key, its user or the team; None: nothing."""

    @property
    def is_admin(self) -> bool:
        """Whether the caller may do everything."""
        return self.role == "admin"

    def can_see(self, team: str | None) -> bool:
        """Whether the caller sees what belongs to `team`; None is everybody's."""
        return self.is_admin or team is None or team == self.team

    def can_change(self, owner: str) -> bool:
        """Whether the caller may change what belongs to `owner`; only asked of what the caller sees."""
        return self.is_admin or (self.role == "member" and owner == self.owner)

    def require_admin(self, what: str) -> None:
        """Raise NotAllowed unless the caller is an admin; `what` completes 'only an admin may ...'."""
        if not self.is_admin:
            raise NotAllowed(f"only an admin may {what}", hint="ask for it with an admin's key")

    def require_change(self, owner: str, what: str) -> None:
        """Raise NotAllowed unless the caller may change `what`, which belongs to `owner`."""
        if not self.can_change(owner):
            if self.role == "viewer":
                raise NotAllowed("a viewer changes nothing", hint="ask an admin for the role member")
            raise NotAllowed(f"{what} belongs to {owner}", hint="ask its owner or an admin")


HOST = Caller("opensloth", "admin")
"""Who works without HTTP: workers, and programs that make the first key."""


def require_visible(
    row: OwnedT | None,
    caller: Caller,
    what: str,
    hint: str | None = None,
    *,
    param: str | None = None,
    code: str | None = None,
) -> OwnedT:
    """`row`, if there is one and the caller sees it; else NotFound('there is no `what`'), the same for both.

    `param` is the name that the id has in a request, `code` the error's code where it has one of its own.
    """
    if row is None or not caller.can_see(row.team):
        message = f"there is no {what}"
        fields = [FieldError(param, message, code or NotFound.code)] if param is not None else []
        raise NotFound(message, code=code, hint=hint, fields=fields)
    return row


def visible_to(caller: Caller, team: Any) -> ColumnElement[bool]:
    """The condition on the column `team` that keeps what the caller sees."""
    return true() if caller.is_admin else team == caller.team
