"""The one table from domain errors to HTTP, and the one shape in which every error leaves."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.unserved import no_route
from opensloth.errors import (
    Conflict,
    FieldError,
    InsufficientStorage,
    InvalidInput,
    NoDevice,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotYet,
    OpenSlothError,
    QuotaExceeded,
    RateLimited,
    TooLarge,
    Unavailable,
)

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 5


class Malformed(InvalidInput):
    """The request cannot even be read: not JSON, not multipart, a character that no text may hold."""

    code = "malformed_request"


class WrongMediaType(InvalidInput):
    """The body has a content type that this route does not read."""

    code = "unsupported_media_type"


class TooSlow(InvalidInput):
    """The body did not arrive in time."""

    code = "request_timeout"


@dataclass(frozen=True)
class Answer:
    """How one class of errors looks in HTTP; `openai_type` is the type in OpenAI's error object."""

    status: int
    title: str
    openai_type: str = "invalid_request_error"
    openai_code: str | None = None
    """The code in that object where OpenAI has one of its own for it."""
    retry_after_s: float | None = None
    """After which the same request may succeed; None: a retry would be answered alike, whatever a client thinks."""


TABLE: dict[type[OpenSlothError], Answer] = {
    Malformed: Answer(400, "The request cannot be read"),
    TooSlow: Answer(408, "The request took too long to arrive"),
    WrongMediaType: Answer(415, "The content type is not supported"),
    InvalidInput: Answer(422, "The input is not valid"),
    NotAuthenticated: Answer(401, "A valid API key is needed"),
    NotAllowed: Answer(403, "This key may not do that", "permission_error"),
    NotFound: Answer(404, "Not found"),
    NotYet: Answer(409, "The present state does not allow it yet", retry_after_s=1),
    QuotaExceeded: Answer(429, "The quota is used up", "insufficient_quota", "insufficient_quota"),
    RateLimited: Answer(429, "Too many requests", "requests", "rate_limit_exceeded", retry_after_s=1),
    Conflict: Answer(409, "The present state does not allow it"),
    TooLarge: Answer(413, "Too large"),
    InsufficientStorage: Answer(507, "The disk is short", "server_error"),
    Unavailable: Answer(503, "Not available at the moment", "server_error", retry_after_s=RETRY_AFTER_S),
    OpenSlothError: Answer(500, "The server failed", "server_error"),
}
"""A subclass that is not here is answered as its nearest base that is."""


def answer_for(error: OpenSlothError) -> Answer:
    """The row of the table that holds for `error`."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    code: str,
    openai_type: str = "invalid_request_error",
    openai_code: str | None = None,
    fields: Iterable[FieldError] = (),
    hint: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An RFC 9457 problem that is OpenAI's error object too, so that one client reads every route."""
    errors = [{"path": f.path, "message": f.message, "code": f.code, "row": f.row} for f in fields]
    said = [error for error in errors if error["message"] != detail][:3]
    if len(said) == 1 and str(said[0]["message"]) in detail:
        said = []
    told = [f"{error['path']}: {error['message']}" if error["path"] else str(error["message"]) for error in said]
    body: dict[str, Any] = {
        "type": f"urn:opensloth:error:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "errors": errors,
        "hint": hint,
        "error": {
            "message": _with_fields(detail, told),
            "type": openai_type,
            "param": errors[0]["path"] if errors else None,
            "code": openai_code or code,
        },
    }
    # OpenAI's clients retry any 409, 429 and 5xx unless they are told.
    told_headers = {"X-Should-Retry": "false", **(headers or {})}
    return JSONResponse(body, status, headers=told_headers, media_type=PROBLEM_JSON)


def retry_headers(error: OpenSlothError) -> dict[str, str]:
    """Whether a client should send the same again, and when, as the OpenAI SDK and others read it."""
    if isinstance(error, NoDevice):
        # The request has waited already, or would wait in vain: a client that retries by itself would only wait again.
        return {"X-Should-Retry": "false", "Retry-After": str(math.ceil(error.retry_after_s))}
    wait_s = error.retry_after_s if isinstance(error, RateLimited) else answer_for(error).retry_after_s
    if wait_s is None:
        return {"X-Should-Retry": "false"}
    wait = {"Retry-After": str(math.ceil(wait_s)), "Retry-After-Ms": str(math.ceil(wait_s * 1000))}
    return {"X-Should-Retry": "true", **wait, **(error.headers if isinstance(error, RateLimited) else {})}


def _with_fields(detail: str, told: Sequence[str]) -> str:
    """One line for clients that show nothing else; a detail that begins with the first field gives way to all."""
    if not told or (len(told) == 1 and told[0] in detail):
        return detail
    joined = "; ".join(told)
    return joined if detail.startswith(told[0]) else f"{detail} ({joined})"


def from_domain(error: OpenSlothError, *, invalid: int = 422) -> JSONResponse:
    """The answer to an error that the domain raised; `invalid` is the status of wrong input."""
    answer = answer_for(error)
    headers = retry_headers(error)
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="opensloth"'
    return problem(
        invalid if answer.status == 422 else answer.status,
        answer.title,
        error.message,
        code=error.error_code,
        openai_type=answer.openai_type,
        openai_code=answer.openai_code,
        fields=error.fields,
        hint=error.hint,
        headers=headers,
    )


def from_validation(errors: Iterable[Mapping[str, Any]]) -> JSONResponse:
    """The answer to parameters or a body that FastAPI found wrong."""
    return from_domain(invalid_request(errors))


def invalid_request(errors: Iterable[Mapping[str, Any]]) -> InvalidInput:
    """What FastAPI found wrong in parameters or a body, as an error of our own."""
    fields = [
        FieldError(_path(error["loc"]), str(error["msg"]).removeprefix("Value error, "), str(error["type"]))
        for error in errors
    ]
    return InvalidInput("the request is not valid", fields=fields)


def from_http(error: HTTPException) -> JSONResponse:
    """The answer to what the framework refuses by itself, such as a method that a path does not have."""
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_")
    return problem(error.status_code, phrase, str(error.detail), code=code, headers=error.headers)


def server_failure(request_id: str) -> JSONResponse:
    """The answer to a mistake of our own; what it was stands in the log under the request's id."""
    return problem(
        500,
        "The server failed",
        f"the server failed in a way of its own; its log says how, under {request_id}",
        code="internal_error",
        openai_type="server_error",
        hint="tell an admin this id",
        headers={"X-Request-Id": request_id},
    )


def install(app: FastAPI) -> None:
    """Answer every error of `app` through this module."""

    @app.exception_handler(OpenSlothError)
    def domain(request: Request, error: OpenSlothError) -> JSONResponse:
        if answer_for(error).status >= 500:
            log.error("%s %s: %s", request.method, request.url.path, error.message)
        return from_domain(error)

    @app.exception_handler(RequestValidationError)
    def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return from_validation(error.errors())

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path
        if error.status_code == 404:
            return from_domain(no_route(request.method, path, lambda other: has_route(app, other)))
        if error.status_code == 405:
            # The router names the methods of one route alone, and this path may have several.
            allowed = ", ".join(allowed_methods(app, path))
            error.headers = {"Allow": allowed}
            error.detail = f"{request.method} is not served at {path[:200]}, only {allowed}"
        return from_http(error)


def has_route(app: FastAPI, path: str) -> bool:
    """Whether some route is for `path`, by any method."""
    scope = {"type": "http", "path": path, "root_path": "", "headers": [], "method": "GET"}
    return any(route.matches(scope)[0] is not Match.NONE for route in app.routes)


def allowed_methods(app: FastAPI, path: str) -> list[str]:
    """The methods that some route has for `path`; of a path like /v1/jobs/estimate only those that are meant for it."""
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    scope = {"type": "http", "path": path, "root_path": "", "headers": []}
    own = app.openapi()["paths"].get(path)
    return [
        method
        for method in methods
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.routes)
        and (own is None or method.lower() in own or (method == "HEAD" and "get" in own))
    ]


def _path(location: Iterable[Any]) -> str:
    parts = list(location)[1:]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".") or "body"
