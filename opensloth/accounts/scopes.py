"""What a key may be for: `jobs:read` reads jobs, `jobs:write` changes them and reads them too."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from opensloth.errors import FieldError, InvalidInput

PARTS = {
    "jobs": "jobs with all that they tell and make, exports, estimates and the queue",
    "chat": "asking models (`/v1/chat/completions`)",
    "commands": "one's own commands on the hosts (`opensloth lease`)",
    "files": "datasets",
    "models": "base models and results",
    "secrets": "names of secrets; `write` stores them",
    "keys": "one's own keys; an admin's reaches all",
    "people": "users, teams and the audit log",
    "devices": "hosts and devices",
}
"""What each part of the service holds."""

Verb = Literal["read", "write"]
SCOPES = tuple(f"{part}:{verb}" for part in PARTS for verb in ("read", "write"))


def allows(scopes: Collection[str] | None, part: str, verb: Verb) -> bool:
    """Whether a key with these scopes (None: with all) may `verb` in `part`."""
    return scopes is None or f"{part}:write" in scopes or f"{part}:{verb}" in scopes


def within(scopes: Collection[str] | None, bound: Collection[str] | None) -> bool:
    """Whether `scopes` allow nothing that `bound` does not allow."""
    if bound is None:
        return True
    return scopes is not None and all(_allows(bound, scope) for scope in scopes)


def checked_scopes(scopes: Sequence[str] | None) -> list[str] | None:
    """The scopes, each once; raises InvalidInput for one that does not exist, and for none at all."""
    if scopes is None:
        return None
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        message = f"there is no scope {unknown[0][:64]!r}; there are: {', '.join(SCOPES)}"
        raise InvalidInput("the scopes are not valid", fields=[FieldError("scopes", message)])
    if not scopes:
        message = "a key without any scope would be for nothing; leave the field out for all that the role allows"
        raise InvalidInput("the scopes are not valid", fields=[FieldError("scopes", message)])
    return sorted(set(scopes))


def _allows(bound: Collection[str], scope: str) -> bool:
    part, _, verb = scope.partition(":")
    return f"{part}:write" in bound or (verb == "read" and scope in bound)
