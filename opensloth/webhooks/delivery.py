"""Takes deliveries out of the outbox, one sender each, and writes how they went and when to try again."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from opensloth.accounts.rows import UserRow
from opensloth.accounts.secrets import SecretService
from opensloth.database import Database, db_now, now_of
from opensloth.errors import OpenSlothError, Unavailable
from opensloth.webhooks.addresses import AddressPolicy
from opensloth.webhooks.outbox import owner_may
from opensloth.webhooks.rows import WebhookDeliveryRow, WebhookRow
from opensloth.webhooks.sending import Answer, post
from opensloth.webhooks.signing import headers_of

log = logging.getLogger(__name__)

WAITS = (1, 60, 360, 1440, 3600, 7200, 10_080, 14_400, 17_280)
"""Waits between the attempts, times the first one (5 s), as Standard Webhooks suggests: 5 s, 5 min, 30 min, 2 h, 5 h,
10 h, 14 h, 20 h and 24 h, which is three days in all."""
JITTER = 0.1
LEASE_S = 120.0
"""A sender that has not said by then how it went is gone, and another one sends the same again."""
NEWEST_S = 3 * 86_400.0
"""What waits longer than the attempts would take is not sent any more."""
KEPT_S = 30 * 86_400.0
"""How long a delivery that is over can be looked at."""
DAY_S = 86_400.0
SECRET = "signing_secret"
"""What the secrets of webhooks are called where they are sealed."""


@dataclass(frozen=True)
class Claimed:
    """A delivery that one sender holds; `attempt` is its fence."""

    id: str
    webhook_id: str
    attempt: int
    url: str
    body: str
    timestamp: int
    secrets: tuple[str, ...]
    """Sealed: the present one, and the one before while it still signs."""


def _signing(webhook: WebhookRow, now: float) -> tuple[str, ...]:
    old = webhook.old_secret if (webhook.old_secret_until or 0.0) > now else None
    return (webhook.secret,) if old is None else (webhook.secret, old)


def holder(webhook_id: str) -> str:
    """Under whom the secrets of a webhook are sealed, so that no row's can be put into another's place."""
    return f"webhook:{webhook_id}"


class Deliveries:
    """The outbox as its senders see it."""

    def __init__(
        self,
        database: Database,
        keeper: SecretService,
        policy: AddressPolicy,
        *,
        first_wait_s: float,
        disable_after_days: float,
    ) -> None:
        self._db = database
        self._keeper = keeper
        self._policy = policy
        self._first_wait_s = first_wait_s
        self._patience_s = disable_after_days * DAY_S

    def claim(self, busy: Collection[str] = ()) -> Claimed | None:
        """The delivery that is due for longest, of none of the webhooks that are `busy`; nobody else gets it meanwhile.

        A webhook is busy while a delivery to it is under way: one that does not answer must not keep all senders.
        """
        table = WebhookDeliveryRow
        is_due = (table.next_at <= db_now(), table.status == "pending")
        due = (
            select(table.id, table.attempts, table.webhook_id)
            .join(WebhookRow, WebhookRow.id == table.webhook_id)
            .outerjoin(UserRow, UserRow.name == WebhookRow.owner)
            .where(*is_due, WebhookRow.disabled_at.is_(None), owner_may(), table.webhook_id.not_in(busy))
            .order_by(table.next_at)
            .limit(1)
        )
        while True:
            with self._db.read() as session:
                found = session.execute(due).one_or_none()
            if found is None:
                return None
            taken = (
                update(table)
                .where(table.id == found.id, table.attempts == found.attempts, *is_due)
                .values(attempts=table.attempts + 1, next_at=db_now() + LEASE_S)
                .returning(table.body)
            )
            with self._db.write() as session:
                body = session.scalar(taken)
                webhook = session.get(WebhookRow, found.webhook_id)
                if body is not None and webhook is not None:
                    keys = _signing(webhook, now := now_of(session))
                    return Claimed(found.id, webhook.id, found.attempts + 1, webhook.url, body, int(now), keys)

    def send(self, claimed: Claimed) -> Answer:
        """One attempt, written down whatever comes of it."""
        try:
            answer = self._post(claimed)
        except Unavailable:
            raise
        except Exception:
            # Not written down it would be tried every two minutes for ever.
            log.exception("the delivery %s could not be sent", claimed.id)
            answer = Answer(error="the sender failed in a way of its own; the worker's log says how")
        self._finish(claimed, answer)
        return answer

    def prune(self) -> int:
        """Forget deliveries that were over long ago, and those whose webhook is gone; returns how many."""
        table = WebhookDeliveryRow
        with self._db.write() as session:
            old = table.created_at < db_now() - KEPT_S
            orphaned = table.webhook_id.not_in(select(WebhookRow.id))
            return len(session.scalars(delete(table).where(old | orphaned).returning(table.id)).all())

    def _post(self, claimed: Claimed) -> Answer:
        try:
            keys = [self._keeper.unseal(holder(claimed.webhook_id), SECRET, key) for key in claimed.secrets]
            target = self._policy.look_up(claimed.url)
        except Unavailable:
            raise
        except OpenSlothError as error:
            return Answer(error="; ".join(field.message for field in error.fields) or error.message)
        return post(target, claimed.body, headers_of(claimed.id, claimed.timestamp, claimed.body, keys))

    def _finish(self, claimed: Claimed, answer: Answer) -> None:
        table = WebhookDeliveryRow
        with self._db.write() as session:
            # The webhook before the delivery, as everybody locks them.
            webhook = session.get(WebhookRow, claimed.webhook_id, with_for_update=True)
            now = now_of(session)
            over = answer.arrived or claimed.attempt > len(WAITS) or answer.status == 410
            values = {
                "status": ("delivered" if answer.arrived else "failed") if over else "pending",
                "next_at": None if over else now + self._wait_s(claimed.attempt, answer),
                "ended_at": now if over else None,
                "last_status": answer.status,
                "last_error": answer.error,
            }
            mine = (table.id == claimed.id, table.attempts == claimed.attempt, table.status == "pending")
            written = session.scalar(update(table).where(*mine).values(**values).returning(table.id))
            if webhook is not None and written is not None:
                self._judge(session, webhook, answer, now)

    def _wait_s(self, attempt: int, answer: Answer) -> float:
        wait = WAITS[attempt - 1] * self._first_wait_s * random.uniform(1 - JITTER, 1 + JITTER)
        return max(wait, answer.retry_after_s)

    def _judge(self, session: Session, webhook: WebhookRow, answer: Answer, now: float) -> None:
        """Note what an attempt says about the webhook itself, and disable one that is gone or has failed for days."""
        if answer.arrived:
            webhook.failing_since = None
            return
        if webhook.failing_since is None:
            webhook.failing_since = now
        reason = None
        if answer.status == 410:
            reason = "the receiver answered with status 410: it wants no more"
        elif now - webhook.failing_since >= self._patience_s:
            days = self._patience_s / DAY_S
            reason = f"every delivery has failed for {days:g} days; the last one: {answer.error}"
        if reason is not None and webhook.disabled_at is None:
            webhook.disabled_at, webhook.disabled_reason = now, reason
            log.warning("the webhook %s is disabled: %s", webhook.id, reason)
