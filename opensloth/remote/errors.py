"""Everything the client raises, made from problem+json and from what the network does.

ClientError
├── NoCredentials         no address or key was given, and none is stored
├── Unreachable           nothing answers at the address, or the connection broke and retries did not help
├── NotAuthenticated      401: the key is missing, unknown, expired or revoked
├── NotAllowed            403: the key is known and may not do this
├── NotFound              404
├── Conflict              409: the present state does not allow it; 429 where a quota is used up
├── InvalidRequest        400, 413, 415, 422: `fields` says where and what to do
├── Unavailable           429, 502, 503, 504, 507: the same request may succeed later
├── ServerFault           any other 5xx: the server's own mistake
└── TransferCorrupt       a download is not what the server said it would be
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Field:
    """One field of a request that was refused; `path` is dotted (`training_args.learning_rate`)."""

    path: str
    message: str
    code: str = "invalid"
    row: int | None = None


class ClientError(Exception):
    """A request that did not succeed; `message` says what happened, `hint` what to do next."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "error",
        hint: str | None = None,
        fields: Sequence[Field] = (),
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.fields = tuple(fields)
        self.status = status

    def as_json(self) -> dict[str, Any]:
        """The error as `--json` prints it."""
        fields = [{"path": f.path, "message": f.message, "code": f.code, "row": f.row} for f in self.fields]
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "hint": self.hint,
                "status": self.status,
                "fields": fields,
            }
        }


class NoCredentials(ClientError):
    """No address or key was given, and none is stored."""


class Unreachable(ClientError):
    """Nothing answers at the address."""


class NotAuthenticated(ClientError):
    """The server does not accept the key."""


class NotAllowed(ClientError):
    """The key does not allow this."""


class NotFound(ClientError):
    """There is nothing with that id."""


class Conflict(ClientError):
    """The present state does not allow it."""


class InvalidRequest(ClientError):
    """What was sent is wrong in the fields that are named."""


class Unavailable(ClientError):
    """A part of the server is away for the moment."""


class ServerFault(ClientError):
    """The server failed in a way of its own."""


class TransferCorrupt(ClientError):
    """What arrived is not what was announced."""


BY_STATUS: dict[int, type[ClientError]] = {
    400: InvalidRequest,
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: Unavailable,
}

HINTS = {
    401: "`opensloth login URL` stores a key; OPENSLOTH_API_KEY overrides it.",
    403: "Ask an admin of this server.",
}


def error_from_response(response: httpx.Response) -> ClientError:
    """The error that a response (already read) of status 400 or more stands for."""
    body = _json_object(response)
    openai = body.get("error") if isinstance(body.get("error"), dict) else {}
    assert isinstance(openai, dict)
    message = body.get("detail") or openai.get("message") or body.get("title") or _plain(response)
    status = response.status_code
    kind = BY_STATUS.get(status, ServerFault if status >= 500 else ClientError)
    if status == 429 and body.get("code") == "quota_exceeded":
        kind = Conflict
    return kind(
        str(message),
        code=str(body.get("code") or openai.get("code") or f"http_{status}"),
        hint=body.get("hint") or HINTS.get(status),
        fields=[_field(entry) for entry in _field_entries(body)],
        status=status,
    )


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _plain(response: httpx.Response) -> str:
    """A sentence for an answer that is no problem+json: a proxy's page, or another program on that port."""
    return f"{response.request.method} {response.request.url.path} was answered with status {response.status_code}."


def _field_entries(body: dict[str, Any]) -> list[dict[str, Any]]:
    entries = body.get("errors") or body.get("fields") or []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _field(entry: dict[str, Any]) -> Field:
    path = entry.get("path") or entry.get("field") or entry.get("param") or ""
    message = entry.get("message") or entry.get("detail") or "is not valid"
    row = entry.get("row")
    return Field(str(path), str(message), str(entry.get("code") or "invalid"), row if isinstance(row, int) else None)
