"""JSON bodies, read strictly: their size, their depth and every character are checked before anybody uses them."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError

from api.errors import Malformed, TooSlow, WrongMediaType
from opensloth.errors import FieldError, InvalidInput, TooLarge

MAX_BODY_BYTES = 2**20
MAX_DEPTH = 32
LARGEST = 2**1023
"""A whole number beyond it is no float, and code that makes one of it fails."""
BODY_S = 60.0
"""How long a body may take to arrive."""
ModelT = TypeVar("ModelT", bound=BaseModel)
_NAME_SHOWN = 64
"""Of a name that a client made up, such as a key of `metadata`, in an error's path."""
SURROGATES = range(0xD800, 0xE000)


async def read_json(request: Request) -> Any:
    """The JSON body of a request. Raises Malformed, WrongMediaType or TooLarge; NaN is left to who knows the field."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise WrongMediaType("send the body as JSON", hint="set `Content-Type: application/json`")
    body = await _read(request)
    try:
        value = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is not UTF-8: byte 0x{body[error.start]:02x} at position {error.start}") from None
    except json.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise Malformed(f"the body is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError:
        raise Malformed("the body has a number with thousands of digits") from None
    check_value(value)
    return value


async def read_optional_json(request: Request) -> Any:
    """As `read_json`; a request without a body is an empty object."""
    empty = request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers
    return {} if empty else await read_json(request)


JsonBody = Annotated[Any, Depends(read_json)]
OptionalJsonBody = Annotated[Any, Depends(read_optional_json)]


def parsed(model: type[ModelT], value: Any) -> ModelT:
    """`value` as `model`; raises InvalidInput with the fields at fault."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fields = [
            FieldError(
                ".".join(str(part)[:_NAME_SHOWN] for part in problem["loc"] if part != "[key]") or "body",
                problem["msg"].removeprefix("Value error, "),
                problem["type"],
            )
            for problem in error.errors()
        ]
        raise InvalidInput("the body is not valid", fields=fields) from None


def check_value(value: Any) -> None:
    """Raise Malformed for nesting and numbers beyond all use and for characters that no database stores."""
    pending: list[tuple[Any, str, int]] = [(value, "", 1)]
    while pending:
        item, path, depth = pending.pop()
        if isinstance(item, str):
            _check_text(item, path)
        elif isinstance(item, int) and not -LARGEST < item < LARGEST:
            message = "is a number of hundreds of digits"
            raise Malformed("the body has a number that is too large", fields=[FieldError(path, message)])
        elif isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise Malformed(f"the body is nested more than {MAX_DEPTH} levels deep")
            if isinstance(item, list):
                pending += [(inner, f"{path}[{n}]", depth + 1) for n, inner in enumerate(item)]
            else:
                for key, inner in item.items():
                    _check_text(key, path or "body")
                    pending.append((inner, f"{path}.{key}".removeprefix("."), depth + 1))


async def _read(request: Request) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise _too_large(request)
    pieces, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                size += len(piece)
                if size > MAX_BODY_BYTES:
                    raise _too_large(request)
                pieces.append(piece)
    except TimeoutError:
        raise TooSlow(f"the body was not whole after {BODY_S:g} s", hint="send it again") from None
    return b"".join(pieces)


def _check_text(text: str, path: str) -> None:
    if text.isascii() and "\0" not in text:
        return
    if "\0" in text or any(ord(character) in SURROGATES for character in text):
        message = "holds a NUL character or half of a surrogate pair"
        raise Malformed("the body holds a character that cannot be stored", fields=[FieldError(path, message)])


_PROMPTS = frozenset({"/v1/chat/completions", "/v1/completions"})


def _too_large(request: Request) -> TooLarge:
    hint = "upload data with POST /v1/files"
    if request.url.path in _PROMPTS:
        hint = "shorten the prompt, such as by leaving out the oldest messages; no model's context holds so much"
    return TooLarge(f"the body is larger than {MAX_BODY_BYTES:,} bytes", hint=hint)
