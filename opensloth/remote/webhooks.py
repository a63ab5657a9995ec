"""`client.webhooks`: who is told what happens to a team's jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from pydantic import Field

from opensloth.remote.pages import iterate
from opensloth.remote.shapes import Shape
from opensloth.remote.transport import Transport

PATH = "/v1/webhooks"


class Webhook(Shape):
    """An address that is told; `signing_secret` is there only in the answer that made it. Times since 1970."""

    id: str
    name: str = ""
    url: str = ""
    event_types: list[str] = Field(default_factory=list)
    owner: str | None = None
    team: str | None = None
    enabled: bool = True
    disabled_reason: str | None = None
    failing_since: int | None = None
    signing_secret: str | None = None


class Delivery(Shape):
    """One event on its way to one webhook, `pending`, `delivered` or `failed`; times are RFC 3339."""

    id: str
    event_type: str = ""
    job_id: str | None = None
    status: str = ""
    attempts: int = 0
    next_attempt_at: str | None = None
    last_status_code: int | None = None
    last_error: str | None = None
    created_at: str | None = None


class Webhooks:
    """Everything under `/v1/webhooks`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, limit: int | None = None) -> Iterator[Webhook]:
        """The team's webhooks, for an admin all, newest first."""
        return iterate(self._transport, PATH, Webhook, limit=limit)

    def create(self, name: str, url: str, event_types: Sequence[str]) -> Webhook:
        """A new webhook; its `signing_secret` is shown here alone."""
        body = {"name": name, "url": url, "event_types": [*event_types]}
        return Webhook(**self._transport.json("POST", PATH, json=body))

    def change(self, webhook_id: str, **changes: Any) -> Webhook:
        """Change `name`, `url`, `event_types` or `enabled`; what is left out stays."""
        return Webhook(**self._transport.json("PATCH", _path(webhook_id), json=changes))

    def rotate_secret(self, webhook_id: str, *, keep_old: bool = False) -> Webhook:
        """A new secret, shown here alone; the old one signs too for a day if it is kept."""
        body = {"keep_old_secret_active_for_24_hours": keep_old}
        return Webhook(**self._transport.json("POST", f"{_path(webhook_id)}/rotate_secret", json=body))

    def test(self, webhook_id: str, event_type: str) -> int:
        """Send a sample event now; the status that the receiver answered. Raises InvalidRequest if nobody does."""
        answer = self._transport.json("POST", f"{_path(webhook_id)}/test", json={"event_type": event_type})
        return int(answer["status_code"])

    def deliveries(self, webhook_id: str, *, status: str | None = None, limit: int | None = None) -> Iterator[Delivery]:
        """What was sent in the last 30 days and what is still to be sent, newest first."""
        params = {} if status is None else {"status": status}
        return iterate(self._transport, f"{_path(webhook_id)}/deliveries", Delivery, limit=limit, params=params)

    def delete(self, webhook_id: str) -> None:
        """Forget a webhook and what was on its way to it."""
        self._transport.request("DELETE", _path(webhook_id))


def _path(webhook_id: str) -> str:
    return f"{PATH}/{quote(webhook_id, safe='')}"
