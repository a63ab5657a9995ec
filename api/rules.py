"""Which part of the service each route belongs to, and so which scope a key needs and whether a viewer may use it."""

from __future__ import annotations

from dataclasses import dataclass

from opensloth.accounts.callers import Caller
from opensloth.accounts.scopes import Verb, allows
from opensloth.errors import NotAllowed

PARTS = {
    "audit": "people",
    "chat": "chat",
    "completions": "chat",
    "datasets": "files",
    "devices": "devices",
    "files": "files",
    "fine_tuning": "jobs",
    "gc": "jobs",
    "hosts": "devices",
    "jobs": "jobs",
    "keys": "keys",
    "leases": "commands",
    "me": None,
    "models": "models",
    "pulls": "files",
    "queue": "jobs",
    "rewards": "jobs",
    "secrets": "secrets",
    "teams": "people",
    "uploads": "files",
    "usage": "jobs",
    "users": "people",
    "webhook_endpoints": "jobs",
    "webhook_event_types": "jobs",
    "webhooks": "jobs",
}
"""The part for what follows `/v1/`; None: every key."""

READS = {("POST", "/v1/jobs/estimate")}
"""Routes that change nothing though their method could."""
FOR_VIEWERS = {("POST", "/v1/keys"), ("POST", "/v1/keys/{key_id}/rotate"), ("DELETE", "/v1/keys/{key_id}")}
"""Changes that a viewer may make: those of the own keys."""


@dataclass(frozen=True)
class Rule:
    """What a route asks of whoever uses it."""

    part: str | None
    verb: Verb
    viewers: bool


def rule_of(method: str, path: str) -> Rule:
    """The rule of a route; raises LookupError for one that has none, which a test finds."""
    root, _, rest = path.removeprefix("/").partition("/")
    name = rest.split("/", 1)[0]
    if root != "v1" or name not in PARTS:
        raise LookupError(f"{method} {path} has no rule in api/rules.py")
    verb: Verb = "read" if method in ("GET", "HEAD") or (method, path) in READS else "write"
    return Rule(PARTS[name], verb, viewers=verb == "read" or (method, path) in FOR_VIEWERS)


def require_allowed(caller: Caller, method: str, path: str) -> None:
    """Raise NotAllowed unless the caller's role and key are for this route."""
    rule = rule_of(method, path)
    if rule.part is not None and not allows(caller.scopes, rule.part, rule.verb):
        held = ", ".join(sorted(caller.scopes or ()))
        raise NotAllowed(
            f"this key has no scope for it: it needs {rule.part}:{rule.verb} and has {held}",
            code="missing_scope",
            hint="use another key, or make one with this scope",
        )
    if caller.role == "viewer" and not rule.viewers:
        raise NotAllowed("a viewer changes nothing", hint="ask an admin for the role member")
