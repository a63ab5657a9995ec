"""`OPENSLOTH_AUTH=off`: requests need no key, and are taken from programs of this machine alone."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import Request

from opensloth.accounts.callers import Caller
from opensloth.accounts.loopback import is_loopback
from opensloth.errors import NotAllowed

LOCAL = Caller("admin", "admin")
"""Who everybody is without authentication; the same user as that of the first key."""

FORWARDING = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def local_caller(request: Request) -> Caller:
    """The one caller there is; raises NotAllowed for a request that may come from elsewhere.

    The settings say where the server was told to listen, yet `uvicorn --host` or a proxy can say otherwise, so each
    request is looked at: the address it came from and came to, what a proxy adds, and the names that a browser sends,
    since a page of any site may be made to post to 127.0.0.1.
    """
    client, server = request.client, request.scope.get("server")
    if client is None or not is_loopback(client.host):
        raise _refused(f"it came from {client.host if client else 'an unknown address'}")
    if server and not is_loopback(server[0]):
        raise _refused(f"it came to {server[0]}")
    for name in FORWARDING:
        if name in request.headers:
            raise _refused(f"a proxy passed it on (`{name}`)")
    for name, host in (("host", _host(request)), ("origin", _origin(request))):
        if host is not None and not is_loopback(host):
            raise _refused(f"its `{name}` is not this machine")
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise _refused("a page of another site sent it")
    return LOCAL


def _host(request: Request) -> str:
    return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""


def _origin(request: Request) -> str | None:
    origin = request.headers.get("origin")
    return None if origin is None else urlsplit(origin).hostname or "null"


def _refused(why: str) -> NotAllowed:
    return NotAllowed(
        f"this server runs without authentication and takes requests from its own machine alone; {why}",
        code="loopback_only",
        hint="set OPENSLOTH_AUTH=on and send a key",
    )
