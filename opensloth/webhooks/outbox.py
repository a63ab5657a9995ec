"""The outbox: what a job comes to is written for every webhook that wants it, in the same transaction."""

from __future__ import annotations

import secrets

from sqlalchemy import ColumnElement, insert, or_, select
from sqlalchemy.orm import Session

from opensloth.accounts.rows import UserRow
from opensloth.webhooks.events import body_of, types_of
from opensloth.webhooks.rows import WebhookDeliveryRow, WebhookRow


def owner_may() -> ColumnElement[bool]:
    """Whether the owner may still see the team's jobs; for a query that has joined the users from outside."""
    here = UserRow.disabled_at.is_(None) & or_(UserRow.team == WebhookRow.team, UserRow.role == "admin")
    return UserRow.name.is_(None) | here


def announce(session: Session, *, team: str | None, job_id: str, kind: str, state: str, now: float) -> None:
    """Write the deliveries that a job's coming to `state` asks for; they go out once the transaction is committed."""
    types = types_of(kind, state)
    if not types:
        return
    listening = session.execute(
        select(WebhookRow.id, WebhookRow.event_types)
        .outerjoin(UserRow, UserRow.name == WebhookRow.owner)
        .where(WebhookRow.team == team, WebhookRow.disabled_at.is_(None), owner_may())
    ).all()
    rows = []
    for event_type in types:
        wanting = [webhook_id for webhook_id, wanted in listening if event_type in wanted]
        if wanting:
            event_id, body = body_of(event_type, job_id, state, now)
            rows += [_delivery(webhook_id, event_id, event_type, job_id, body, now) for webhook_id in wanting]
    if rows:
        session.execute(insert(WebhookDeliveryRow), rows)


def _delivery(webhook_id: str, event_id: str, event_type: str, job_id: str, body: str, now: float) -> dict[str, object]:
    return {
        "id": f"wh_{secrets.token_hex(16)}",
        "webhook_id": webhook_id,
        "event_id": event_id,
        "event_type": event_type,
        "job_id": job_id,
        "body": body,
        "created_at": now,
        "status": "pending",
        "attempts": 0,
        "next_at": now,
    }
