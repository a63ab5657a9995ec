"""What routes ask for: the services, the caller behind the bearer key, a page, a strict query, a JSON body."""

from __future__ import annotations

import difflib
from typing import Annotated, cast

from fastapi import Depends, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.lanes import Lanes
from api.local import local_caller
from api.middleware import COOKIES, EXTRA_HEADERS
from api.openai.retries import cookies_of
from api.rules import require_allowed
from opensloth.accounts.callers import Caller
from opensloth.errors import FieldError, InvalidInput
from opensloth.services import Services

_bearer = HTTPBearer(auto_error=False, description="An API key of this server, `sk-sloth-...`.")


async def services_of(request: Request) -> Services:
    """The services of this process; `async`, as FastAPI gives what is not to a thread, which costs more than this."""
    return cast(Services, request.app.state.services)


ServicesDep = Annotated[Services, Depends(services_of)]


async def lanes_of(request: Request) -> Lanes:
    """The lanes of this process for slow work."""
    return cast(Lanes, request.app.state.lanes)


LanesDep = Annotated[Lanes, Depends(lanes_of)]


def authenticated(
    request: Request,
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """The caller behind the bearer key, if this route is for that one.

    Raises NotAuthenticated, NotAllowed or RateLimited.
    """
    request.scope.get(COOKIES, []).extend(cookies_of(request))
    if services.settings.auth == "off":
        return local_caller(request)
    caller = services.keys.authenticate(credentials.credentials if credentials else None)
    if caller.key_id is not None and (rate := services.rates.take(caller.key_id, caller.requests_per_minute)):
        request.scope.get(EXTRA_HEADERS, {}).update(rate.headers())
    require_allowed(caller, request.method, request.scope["route"].path)
    return caller


CallerDep = Annotated[Caller, Depends(authenticated)]

Limit = Annotated[int, Query(ge=1, le=100, description="At most so many entries.")]
After = Annotated[str | None, Query(max_length=256, description="The `last_id` of the page before.")]


async def strict_query(request: Request) -> None:
    """Raise InvalidInput for a query parameter that the route does not know: a typo must not widen a list."""
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = _query_names(route.dependant)
    unknown = [name for name in request.query_params if _base(name) not in known]
    if not unknown:
        return
    fields = []
    for name in unknown[:10]:
        near = difflib.get_close_matches(name[:64], known, n=1)
        meant = f"; did you mean `{near[0]}`?" if near else ""
        fields.append(FieldError(name[:64], f"this route has no such parameter{meant}", "unknown_parameter"))
    raise InvalidInput("a query parameter is unknown", fields=fields)


def _query_names(dependant: Dependant) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_query_names(inner) for inner in dependant.dependencies))


def _base(name: str) -> str:
    return name.split("[", 1)[0].split(".", 1)[0]
