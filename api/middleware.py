"""What surrounds every request: its id, characters that no request may hold, and failures of our own."""

from __future__ import annotations

import logging
import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import Malformed, from_domain, server_failure

log = logging.getLogger(__name__)

EXTRA_HEADERS = "opensloth.headers"
"""Under this name a request's scope has a dict of headers that its answer gets, whatever the answer is made of."""
COOKIES = "opensloth.cookies"
"""Likewise a list of `Set-Cookie`."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestGuard:
    """Gives each request an id (`X-Request-Id`, the client's own if it sent a sensible one) and logs what fails."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else f"req-{secrets.token_hex(8)}"
        started = False
        extra: dict[str, str] = {}
        scope[EXTRA_HEADERS] = extra
        cookies: list[str] = []
        scope[COOKIES] = cookies

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                for name, value in extra.items():
                    headers[name] = value
                for cookie in cookies:
                    headers.append("Set-Cookie", cookie)
            await send(message)

        # PostgreSQL has no NUL in its texts; what cannot be stored cannot be looked for either.
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            response = from_domain(Malformed("the address holds a NUL character"))
            await response(scope, receive, send_with_id)
            return
        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.info("%s %s: the client went away", scope["method"], scope["path"])
        except Exception:
            log.exception("%s %s failed (%s)", scope["method"], scope["path"], request_id)
            if started:
                raise
            await server_failure(request_id)(scope, receive, send)
