"""Errors as OpenAI's clients know them: the body `{"error": {...}}` alone, and 400 for what is wrong in a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict

from api.errors import answer_for, from_domain, invalid_request
from opensloth.errors import FieldError, NotFound, OpenSlothError

log = logging.getLogger(__name__)

_STATUS = {422: 400}
"""OpenAI answers 400 to what it cannot accept; all other statuses are its own."""
_OF_THE_BODY = {"content-length", "content-type"}


class OpenAIError(BaseModel):
    """What went wrong; `param` is the field at fault, `code` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error under OpenAI's routes."""

    model_config = ConfigDict(extra="forbid")

    error: OpenAIError


_UNREAD = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
"""What is refused before a route is looked for, which is OpenAI's object and more."""
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is refused", "content": _UNREAD},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer", "content": _UNREAD},
}
"""The answers that every route of this package may give beside its own; for `include_router(responses=...)`."""


class OpenAIRoute(APIRoute):
    """A route whose errors leave in OpenAI's shape: `APIRouter(route_class=OpenAIRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route, with its errors answered here."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return openai_answer(invalid_request(error.errors()))
            except OpenSlothError as error:
                if answer_for(error).status >= 500:
                    log.error("%s %s: %s", request.method, request.url.path, error.message)
                return openai_answer(error)

        return handler


def openai_answer(error: OpenSlothError) -> JSONResponse:
    """The answer to `error` in OpenAI's shape, with the headers that it has everywhere."""
    answer = from_domain(error)
    headers = {name: value for name, value in answer.headers.items() if name not in _OF_THE_BODY}
    return JSONResponse({"error": openai_error(error)}, _STATUS.get(answer.status_code, answer.status_code), headers)


def openai_error(error: OpenSlothError) -> dict[str, Any]:
    """OpenAI's error object: one message that says where, what and what to do next."""
    first = error.fields[0] if error.fields else None
    code = answer_for(error).openai_code or error.error_code
    if first is not None and code == "invalid_input":
        code = first.code
    return {
        "message": message_of(error),
        "type": answer_for(error).openai_type,
        "param": first.path if first else None,
        "code": code,
    }


def message_of(error: OpenSlothError) -> str:
    """The whole of an error in one line, for clients that show nothing else."""
    told = [
        f"{field.path}: {field.message}" if field.path else field.message
        for field in error.fields[:5]
        if field.message != error.message
    ]
    if len(error.fields) > 5:
        told.append(f"and {len(error.fields) - 5} more")
    text = error.message
    if told:
        joined = "; ".join(told)
        text = joined if text.startswith(told[0]) else f"{text}: {joined}"
    return f"{text}. {error.hint[:1].upper()}{error.hint[1:]}." if error.hint else text


def _their(message: str) -> str:
    for ours, theirs in _WORDS.items():
        message = message.replace(ours, theirs)
    return message


def not_found(what: str, param: str, code: str, hint: str | None = None) -> NotFound:
    """OpenAI's 404: `what` is the whole message, `param` the name that OpenAI gives the id in the path."""
    return NotFound(what, code=code, hint=hint, fields=[FieldError(param, what, code)])


_WORDS = {"eval_dataset": "validation_file", "opensloth_config.": "opensloth."}
"""Names that messages mention, and what OpenAI calls the same."""


def renamed(error: OpenSlothError, name_of: Callable[[str], str]) -> OpenSlothError:
    """`error` with its fields under the names that the request has for them."""
    fields = [FieldError(name_of(field.path), _their(field.message), field.code, field.row) for field in error.fields]
    message = error.message
    if fields and message.startswith(error.fields[0].path):
        message = fields[0].path + message.removeprefix(error.fields[0].path)
    message = _their(message)
    return type(error)(message, code=error.error_code, hint=error.hint, fields=fields)
