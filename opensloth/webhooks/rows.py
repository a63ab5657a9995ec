"""The tables of webhooks: where a team wants to be told, and what is on its way there."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from opensloth.database import Base


class WebhookRow(Base):
    """One registered address."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    team: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[Any]]
    secret: Mapped[str]
    """What signs, encrypted as accounts/secrets.py does it."""
    secret_hint: Mapped[str]
    old_secret: Mapped[str | None]
    """Signs too until `old_secret_until`."""
    old_secret_until: Mapped[float | None]
    created_at: Mapped[float]
    updated_at: Mapped[float]
    disabled_at: Mapped[float | None]
    disabled_reason: Mapped[str | None]
    failing_since: Mapped[float | None]
    """When the first of the deliveries failed that have failed in a row; None: the last one arrived."""


class WebhookDeliveryRow(Base):
    """One event on its way to one webhook; written in the transaction that makes it happen."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(primary_key=True)
    """The `webhook-id` of every attempt."""
    # No foreign key: a webhook that is deleted at this moment must not keep a job from ending.
    webhook_id: Mapped[str] = mapped_column(index=True)
    event_id: Mapped[str]
    event_type: Mapped[str]
    job_id: Mapped[str]
    body: Mapped[str] = mapped_column(Text)
    """The very bytes that are signed and sent."""
    created_at: Mapped[float]
    status: Mapped[str]
    """`pending`, `delivered` or `failed`."""
    attempts: Mapped[int]
    next_at: Mapped[float | None] = mapped_column(index=True)
    """When it is to be sent, and while somebody sends it when another may; None: it is over."""
    ended_at: Mapped[float | None]
    last_status: Mapped[int | None]
    """HTTP status of the last answer."""
    last_error: Mapped[str | None]
