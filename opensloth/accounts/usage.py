"""What users and teams have used: booked when an attempt ends, read by planning and by quotas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from opensloth.accounts.rows import TeamRow, UsageRow, UserRow
from opensloth.database import insert_of
from opensloth.scheduling.fairness import decayed
from opensloth.scheduling.types import Account

DAY_S = 86_400.0
HOUR_S = 3_600.0
FORGOTTEN = 12
"""Half-lives after which usage counts for nothing: less than a thousandth is left."""

Spent = tuple[str, str, float]
"""Owner, team and device-seconds."""


def charge(session: Session, owner: str, team: str, device_s: float, now: float) -> None:
    """Book device-seconds of an ended attempt on the day (UTC) of its end."""
    if device_s <= 0:
        return
    booked = insert_of(session)(UsageRow).values(owner=owner, team=team, day=int(now // DAY_S), device_s=device_s)
    key = [UsageRow.owner, UsageRow.team, UsageRow.day]
    session.execute(booked.on_conflict_do_update(index_elements=key, set_={"device_s": UsageRow.device_s + device_s}))


def usage_now(
    session: Session, now: float, half_life_s: float, running: Iterable[Spent] = ()
) -> tuple[dict[str, Account], dict[str, Account]]:
    """The accounts of every user and of every team, for planning.

    `used_s` holds ended attempts alone, decayed. `running` is what live attempts have used in this month so far; it
    counts against the month's device-hours.
    """
    since, month = int((now - FORGOTTEN * half_life_s) // DAY_S), int(month_start(now) // DAY_S)
    used: dict[tuple[str, str], float] = defaultdict(float)
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for owner, team, day, device_s in session.execute(
        select(UsageRow.owner, UsageRow.team, UsageRow.day, UsageRow.device_s).where(
            or_(UsageRow.day >= since, UsageRow.day >= month)
        )
    ):
        # A day counts from its end, so that today's use has not begun to be forgotten.
        counted = decayed(device_s, (day + 1) * DAY_S, now, half_life_s)
        used["user", owner] += counted
        used["team", team] += counted
        if day >= month:
            spent["user", owner] += device_s
            spent["team", team] += device_s
    for owner, team, device_s in running:
        spent["user", owner] += device_s
        spent["team", team] += device_s
    return _accounts(session, UserRow, "user", used, spent), _accounts(session, TeamRow, "team", used, spent)


def month_start(now: float) -> float:
    """When the calendar month (UTC) of `now` began, in seconds since 1970."""
    return datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()


def _accounts(
    session: Session, table: Any, kind: str, used: dict[tuple[str, str], float], spent: dict[tuple[str, str], float]
) -> dict[str, Account]:
    """The accounts of everybody who has limits or has used something."""
    accounts = {name: Account(used_s=used_s) for (of, name), used_s in used.items() if of == kind}
    limits = select(table.name, table.share, table.max_devices, table.device_hours)
    for name, share, max_devices, hours in session.execute(limits):
        left = None if hours is None else max(0.0, hours * HOUR_S - spent.get((kind, name), 0.0))
        accounts[name] = Account(used.get((kind, name), 0.0), share, max_devices, left)
    return accounts
