"""Registers webhooks: whom of a team to tell what, and by which secret they know that it was us."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import Caller, require_visible, visible_to
from opensloth.accounts.secrets import SecretService
from opensloth.database import Database, now_of
from opensloth.errors import FieldError, InvalidInput, NotFound, QuotaExceeded, Unavailable
from opensloth.webhooks.addresses import AddressPolicy
from opensloth.webhooks.delivery import NEWEST_S, SECRET, holder
from opensloth.webhooks.events import EVENT_TYPES, sample
from opensloth.webhooks.rows import WebhookDeliveryRow, WebhookRow
from opensloth.webhooks.sending import Answer, post
from opensloth.webhooks.signing import headers_of, hint_of, new_secret

MOST = 50
"""Webhooks of one team; each event is sent to all that want it."""
OVERLAP_S = 86_400.0
MOST_ASKED = 4
"""Names looked up, and samples under way, at once in one process: neither a receiver nor a name server that hangs may
hold all the threads of the API."""
_TURN_S = 1.0
_HINT = "`GET /v1/webhooks` lists them"


class WebhookService:
    """Makes, shows, changes and tries webhooks; a team sees its own, their owners and admins change them."""

    def __init__(self, database: Database, keeper: SecretService, policy: AddressPolicy) -> None:
        self._db = database
        self._keeper = keeper
        self._policy = policy
        self._asked = threading.BoundedSemaphore(MOST_ASKED)

    def create(self, caller: Caller, *, name: str, url: str, event_types: Sequence[str]) -> tuple[WebhookRow, str]:
        """A new webhook and its secret, which nothing shows again. Raises InvalidInput, QuotaExceeded."""
        types = checked_types(event_types)
        with self._turn():
            self._policy.look_up(url)
        with self._db.write() as session:
            count = select(func.count()).select_from(WebhookRow).where(WebhookRow.team == caller.team)
            if (session.scalar(count) or 0) >= MOST:
                raise QuotaExceeded(
                    f"the team {caller.team} has {MOST} webhooks, the most that a team may have", hint="delete one"
                )
            now = now_of(session)
            row = WebhookRow(
                id=f"webhook_{secrets.token_hex(12)}",
                owner=caller.owner,
                team=caller.team,
                name=name,
                url=url,
                event_types=types,
                created_at=now,
                updated_at=now,
            )
            secret = self._new_secret(row)
            session.add(row)
            session.flush()
            record(session, caller, "webhook.create", row.id, name=name, event_types=types)
            return row, secret

    def list(self, caller: Caller, *, limit: int, after: str | None) -> tuple[Sequence[WebhookRow], bool]:
        """The team's webhooks (an admin's: all), newest first, and whether more follow. Raises NotFound for `after`."""
        query = select(WebhookRow).where(visible_to(caller, WebhookRow.team))
        query = query.order_by(WebhookRow.created_at.desc(), WebhookRow.id.desc())
        with self._db.read() as session:
            if after is not None:
                last = _visible(session, after, caller)
                older = (WebhookRow.created_at == last.created_at) & (WebhookRow.id < last.id)
                query = query.where((WebhookRow.created_at < last.created_at) | older)
            rows = session.scalars(query.limit(limit + 1)).all()
        return rows[:limit], len(rows) > limit

    def get(self, webhook_id: str, caller: Caller) -> WebhookRow:
        """One webhook; raises NotFound."""
        with self._db.read() as session:
            return _visible(session, webhook_id, caller)

    def update(self, webhook_id: str, caller: Caller, changes: Mapping[str, Any]) -> WebhookRow:
        """Change `name`, `url`, `event_types` or `enabled`; what waits in a disabled one goes out once enabled."""
        values = dict(changes)
        if "event_types" in values:
            values["event_types"] = checked_types(values["event_types"])
        if "url" in values:
            with self._turn():
                self._policy.look_up(values["url"])
        with self._db.write() as session:
            row = _changeable(session, webhook_id, caller)
            now = now_of(session)
            enabled = values.pop("enabled", None)
            changed = sorted(name for name, value in values.items() if getattr(row, name) != value)
            for name in changed:
                setattr(row, name, values[name])
            if enabled is not None and enabled != (row.disabled_at is None):
                changed.append("enabled")
                self._switch(session, row, caller, enabled, now)
            if changed:
                row.updated_at = now
            record(session, caller, "webhook.change", webhook_id, changed=changed)
            return row

    def delete(self, webhook_id: str, caller: Caller) -> None:
        """Forget a webhook and what was on its way to it."""
        with self._db.write() as session:
            row = _changeable(session, webhook_id, caller)
            session.execute(delete(WebhookDeliveryRow).where(WebhookDeliveryRow.webhook_id == webhook_id))
            session.delete(row)
            record(session, caller, "webhook.delete", webhook_id, name=row.name)

    def rotate_secret(self, webhook_id: str, caller: Caller, *, keep_old: bool) -> tuple[WebhookRow, str]:
        """A new secret, shown here alone; the old one signs too for a day if it is kept."""
        with self._db.write() as session:
            row = _changeable(session, webhook_id, caller)
            now = now_of(session)
            row.old_secret = row.secret if keep_old else None
            row.old_secret_until = now + OVERLAP_S if keep_old else None
            row.updated_at = now
            secret = self._new_secret(row)
            record(session, caller, "webhook.rotate_secret", webhook_id, keep_old=keep_old)
            return row, secret

    def test(self, webhook_id: str, caller: Caller, event_type: str) -> Answer:
        """Send a sample event now, whether the webhook is enabled or not. Raises InvalidInput where nobody answers."""
        (event_type,) = checked_types([event_type], field="event_type")
        with self._db.write() as session:
            row = _changeable(session, webhook_id, caller)
            now = now_of(session)
            record(session, caller, "webhook.test", webhook_id, event_type=event_type)
        with self._turn():
            target = self._policy.look_up(row.url)
            body = sample(event_type, now)
            keys = [self._keeper.unseal(holder(row.id), SECRET, row.secret)]
            answer = post(target, body, headers_of(f"wh_{secrets.token_hex(16)}", int(now), body, keys))
        if answer.status is None:
            message = f"{target.host}: {answer.error}"
            raise InvalidInput(
                "nobody answers at the webhook's URL",
                code="webhook_unreachable",
                fields=[FieldError("url", message, "webhook_unreachable")],
            )
        return answer

    def deliveries(
        self, webhook_id: str, caller: Caller, *, limit: int, after: str | None, status: str | None
    ) -> tuple[Sequence[WebhookDeliveryRow], bool]:
        """What was and is to be sent to a webhook, newest first, and whether more follow. Raises NotFound."""
        table = WebhookDeliveryRow
        query = select(table).where(table.webhook_id == webhook_id).order_by(table.created_at.desc(), table.id.desc())
        if status is not None:
            query = query.where(table.status == status)
        with self._db.read() as session:
            _visible(session, webhook_id, caller)
            if after is not None:
                last = session.get(table, after)
                if last is None or last.webhook_id != webhook_id:
                    raise NotFound(
                        f"there is no delivery {after!r}", hint="`after` is the `last_id` of the page before"
                    )
                older = (table.created_at == last.created_at) & (table.id < last.id)
                query = query.where((table.created_at < last.created_at) | older)
            rows = session.scalars(query.limit(limit + 1)).all()
        return rows[:limit], len(rows) > limit

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._asked.acquire(timeout=_TURN_S):
            raise Unavailable("too many webhooks are being asked at the moment", hint="try again in a few seconds")
        try:
            yield
        finally:
            self._asked.release()

    def _new_secret(self, row: WebhookRow) -> str:
        secret = new_secret()
        row.secret = self._keeper.seal(holder(row.id), SECRET, secret)
        row.secret_hint = hint_of(secret)
        return secret

    @staticmethod
    def _switch(session: Session, row: WebhookRow, caller: Caller, enabled: bool, now: float) -> None:
        row.failing_since = None
        if not enabled:
            row.disabled_at, row.disabled_reason = now, f"disabled by {caller.owner}"
            return
        row.disabled_at = row.disabled_reason = None
        waiting = update(WebhookDeliveryRow).where(
            WebhookDeliveryRow.webhook_id == row.id, WebhookDeliveryRow.status == "pending"
        )
        too_old = WebhookDeliveryRow.created_at < now - NEWEST_S
        why = "the webhook was disabled for too long"
        session.execute(waiting.where(too_old).values(status="failed", next_at=None, ended_at=now, last_error=why))
        session.execute(waiting.values(next_at=now))


def checked_types(event_types: Sequence[str], field: str = "event_types") -> list[str]:
    """The event types, each once; raises InvalidInput for one that there is not, and for none at all."""
    if not event_types:
        message = f"name at least one of: {', '.join(EVENT_TYPES)}"
        raise InvalidInput("the event types are not valid", fields=[FieldError(field, message)])
    for number, name in enumerate(event_types):
        if name not in EVENT_TYPES:
            message = f"this server has no event {name[:64]!r}; it has: {', '.join(EVENT_TYPES)}"
            path = field if field == "event_type" else f"{field}[{number}]"
            raise InvalidInput("the event types are not valid", fields=[FieldError(path, message)])
    return list(dict.fromkeys(event_types))


def _visible(session: Session, webhook_id: str, caller: Caller) -> WebhookRow:
    return require_visible(session.get(WebhookRow, webhook_id), caller, f"webhook {webhook_id!r}", _HINT)


def _changeable(session: Session, webhook_id: str, caller: Caller) -> WebhookRow:
    found = session.get(WebhookRow, webhook_id, with_for_update=True)
    row = require_visible(found, caller, f"webhook {webhook_id!r}", _HINT)
    caller.require_change(row.owner, f"the webhook {webhook_id}")
    return row
