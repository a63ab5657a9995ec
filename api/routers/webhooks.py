"""`/v1/webhooks`, which the OpenAI SDK calls `/v1/webhook_endpoints`: who is told what happens to a team's jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.bodies import json_body
from api.body import JsonBody, OptionalJsonBody, parsed
from api.dependencies import After, CallerDep, Limit, ServicesDep, strict_query
from api.openai.errors import OpenAIRoute
from opensloth.events.records import rfc3339
from opensloth.jobs.views import Page
from opensloth.webhooks.addresses import MOST_CHARACTERS
from opensloth.webhooks.events import EVENT_TYPES
from opensloth.webhooks.rows import WebhookDeliveryRow, WebhookRow

_STRICT = ConfigDict(extra="forbid", strict=True, defer_build=True)
_EVENTS = ", ".join(EVENT_TYPES)

Name = Annotated[str, Field(min_length=1, max_length=128, description="What people call it.")]
Url = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS, description="Where it is told; public, by https.")]
EventTypes = Annotated[list[str], Field(max_length=32, description=f"What it is told: {_EVENTS}.")]


class NewWebhook(BaseModel):
    """A webhook to make."""

    model_config = _STRICT

    name: Name
    url: Url
    event_types: EventTypes


class WebhookChange(BaseModel):
    """What to change of a webhook; what is left out stays."""

    model_config = _STRICT

    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None
    enabled: Annotated[bool | None, Field(description="Whether it is told anything.")] = None

    @model_validator(mode="after")
    def _something(self) -> WebhookChange:
        for name in self.model_fields_set:
            if getattr(self, name) is None:
                raise ValueError(f"`{name}` cannot be null; leave it out to keep it")
        return self


class Rotation(BaseModel):
    """How to replace a secret."""

    model_config = _STRICT

    keep_old_secret_active_for_24_hours: Annotated[
        bool, Field(description="Whether deliveries are signed by the old one too for a day.")
    ] = False


class Test(BaseModel):
    """What to try a webhook with."""

    model_config = _STRICT

    event_type: Annotated[str, Field(max_length=64, description=f"One of: {_EVENTS}.")]


class WebhookView(BaseModel):
    """A webhook; times are seconds since 1970. The secret is shown by what makes it alone."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    created_at: int
    updated_at: int
    owner: str
    team: str
    enabled: bool
    disabled_reason: str | None = Field(description="Why nothing is delivered any more.")
    failing_since: int | None = Field(description="Since when no delivery has arrived; null: the last one did.")

    @classmethod
    def fields_of(cls, row: WebhookRow) -> dict[str, Any]:
        """The fields of a stored row."""
        return {
            "id": row.id,
            "name": row.name,
            "url": row.url,
            "event_types": row.event_types,
            "signing_secret_hint": row.secret_hint,
            "created_at": int(row.created_at),
            "updated_at": int(row.updated_at),
            "owner": row.owner,
            "team": row.team,
            "enabled": row.disabled_at is None,
            "disabled_reason": row.disabled_reason,
            "failing_since": None if row.failing_since is None else int(row.failing_since),
        }

    @classmethod
    def of(cls, row: WebhookRow) -> WebhookView:
        """The view of a stored row."""
        return cls(**cls.fields_of(row))


class NewWebhookView(WebhookView):
    """A webhook with its new secret, which nothing shows again."""

    signing_secret: str = Field(repr=False)


class WebhookDeleted(BaseModel):
    """A webhook that is gone."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: bool = True


class TestResult(BaseModel):
    """What the receiver answered to a sample event."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = Field(True, description="That there was an answer; `status_code` says which.")


class DeliveryView(BaseModel):
    """One event on its way to one webhook: `id` is the `webhook-id` of every attempt. Times are RFC 3339."""

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    event_id: str
    event_type: str
    job_id: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: str | None
    last_status_code: int | None = Field(description="What the receiver answered last; null where it did not.")
    last_error: str | None
    created_at: str
    ended_at: str | None

    @classmethod
    def of(cls, row: WebhookDeliveryRow) -> DeliveryView:
        """The view of a stored row."""
        return cls(
            id=row.id,
            event_id=row.event_id,
            event_type=row.event_type,
            job_id=row.job_id,
            status=row.status,
            attempts=row.attempts,
            next_attempt_at=None if row.next_at is None else rfc3339(row.next_at),
            last_status_code=row.last_status,
            last_error=row.last_error,
            created_at=rfc3339(row.created_at),
            ended_at=None if row.ended_at is None else rfc3339(row.ended_at),
        )


class EventTypeList(BaseModel):
    """The events that there are."""

    object: Literal["list"] = "list"
    data: list[str]


_SUCCEEDED = "fine_tuning.job.succeeded"
_EXAMPLE = {"name": "results", "url": "https://hooks.example.com/opensloth", "event_types": [_SUCCEEDED]}


def create_webhook(response: Response, body: JsonBody, services: ServicesDep, caller: CallerDep) -> NewWebhookView:
    """Register an address of the caller's team. The answer is the only place where the secret ever stands."""
    new = parsed(NewWebhook, body)
    row, secret = services.webhooks.create(caller, name=new.name, url=new.url, event_types=new.event_types)
    return _shown_once(response, row, secret)


def list_webhooks(
    services: ServicesDep, caller: CallerDep, limit: Limit = 20, after: After = None
) -> Page[WebhookView]:
    """The webhooks of one's team, for an admin all, newest first."""
    rows, more = services.webhooks.list(caller, limit=limit, after=after)
    return Page.of([WebhookView.of(row) for row in rows], more)


def get_webhook(webhook_id: str, services: ServicesDep, caller: CallerDep) -> WebhookView:
    """One webhook."""
    return WebhookView.of(services.webhooks.get(webhook_id, caller))


def change_webhook(webhook_id: str, body: JsonBody, services: ServicesDep, caller: CallerDep) -> WebhookView:
    """Change name, address or events, or whether it is told anything. What is left out stays."""
    change = parsed(WebhookChange, body)
    return WebhookView.of(services.webhooks.update(webhook_id, caller, change.model_dump(exclude_unset=True)))


def delete_webhook(webhook_id: str, services: ServicesDep, caller: CallerDep) -> WebhookDeleted:
    """Remove a webhook; what was on its way to it is not sent any more."""
    services.webhooks.delete(webhook_id, caller)
    return WebhookDeleted(id=webhook_id)


def rotate_webhook_secret(
    response: Response, webhook_id: str, body: OptionalJsonBody, services: ServicesDep, caller: CallerDep
) -> NewWebhookView:
    """Make a new secret. The old one ends now, or signs beside it for a day."""
    keep_old = parsed(Rotation, body).keep_old_secret_active_for_24_hours
    return _shown_once(response, *services.webhooks.rotate_secret(webhook_id, caller, keep_old=keep_old))


def test_webhook(webhook_id: str, body: JsonBody, services: ServicesDep, caller: CallerDep) -> TestResult:
    """Send a sample event now and wait for the answer; 400 where nobody answers."""
    event_type = parsed(Test, body).event_type
    answer = services.webhooks.test(webhook_id, caller, event_type)
    return TestResult(webhook_endpoint_id=webhook_id, event_type=event_type, status_code=answer.status or 0)


def list_deliveries(
    webhook_id: str,
    services: ServicesDep,
    caller: CallerDep,
    limit: Limit = 20,
    after: After = None,
    status: Annotated[
        Literal["pending", "delivered", "failed"] | None, Query(description="Only those that are so.")
    ] = None,
) -> Page[DeliveryView]:
    """What was sent to a webhook in the last 30 days and what is still to be sent, newest first."""
    rows, more = services.webhooks.deliveries(webhook_id, caller, limit=limit, after=after, status=status)
    return Page.of([DeliveryView.of(row) for row in rows], more)


def list_event_types(caller: CallerDep) -> EventTypeList:
    """The events that a webhook can be told."""
    return EventTypeList(data=list(EVENT_TYPES))


def _shown_once(response: Response, row: WebhookRow, secret: str) -> NewWebhookView:
    response.headers["Cache-Control"] = "no-store"
    return NewWebhookView(**WebhookView.fields_of(row), signing_secret=secret)


_ONE = "/{webhook_id}"
_CHANGE = json_body(WebhookChange, stop={"enabled": False})
_ROUTES: tuple[tuple[str, str, Callable[..., Any], dict[str, Any] | None], ...] = (
    ("POST", "", create_webhook, json_body(NewWebhook, results=_EXAMPLE)),
    ("GET", "", list_webhooks, None),
    ("GET", _ONE, get_webhook, None),
    ("POST", _ONE, change_webhook, _CHANGE),
    ("PATCH", _ONE, change_webhook, _CHANGE),
    ("DELETE", _ONE, delete_webhook, None),
    (
        "POST",
        f"{_ONE}/rotate_secret",
        rotate_webhook_secret,
        json_body(Rotation, required=False, a_day={"keep_old_secret_active_for_24_hours": True}),
    ),
    ("POST", f"{_ONE}/test", test_webhook, json_body(Test, succeeded={"event_type": _SUCCEEDED})),
    ("GET", f"{_ONE}/deliveries", list_deliveries, None),
)


def _router(prefix: str) -> APIRouter:
    made = APIRouter(prefix=prefix, tags=["webhooks"], dependencies=[Depends(strict_query)], route_class=OpenAIRoute)
    for method, path, endpoint, body in _ROUTES:
        made.add_api_route(path, endpoint, methods=[method], openapi_extra=body)
    return made


event_types = APIRouter(
    prefix="/v1/webhook_event_types",
    tags=["webhooks"],
    dependencies=[Depends(strict_query)],
    route_class=OpenAIRoute,
)
event_types.add_api_route("", list_event_types, methods=["GET"])
routers = (_router("/v1/webhooks"), _router("/v1/webhook_endpoints"), event_types)
