"""Device-seconds are booked by day, forgotten by half-life, and counted against the month."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from opensloth.accounts.callers import HOST
from opensloth.accounts.rows import UsageRow
from opensloth.accounts.usage import DAY_S, HOUR_S, charge, month_start, usage_now
from opensloth.services import Services

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
WEEK_S = 7 * DAY_S


def test_a_day_is_one_row_for_each_user_and_team(services: Services) -> None:
    with services.database.write() as session:
        for device_s in (10.0, 5.0, 0.0, -1.0):
            charge(session, "ada", "red", device_s, NOW)
        charge(session, "ada", "blue", 1.0, NOW)
        charge(session, "ada", "red", 2.0, NOW + DAY_S)
    with services.database.read() as session:
        rows = session.execute(select(UsageRow.team, UsageRow.day, UsageRow.device_s)).tuples().all()
    today = int(NOW // DAY_S)
    assert sorted(rows) == [("blue", today, 1.0), ("red", today, 15.0), ("red", today + 1, 2.0)]


def test_use_is_forgotten_by_its_half_life_and_limits_come_with_it(services: Services) -> None:
    services.teams.create("red", HOST, {"share": 2.0, "device_hours": 10.0})
    services.users.create("ada", HOST, role="member", team="red", account=None, limits={"max_devices": 3})
    with services.database.write() as session:
        charge(session, "ada", "red", 1000.0, NOW - WEEK_S - DAY_S / 2)
        charge(session, "bob", "red", 600.0, NOW)
    with services.database.read() as session:
        users, teams = usage_now(session, NOW, WEEK_S, running=[("ada", "red", HOUR_S)])
    assert users["ada"].used_s == pytest.approx(500.0, rel=0.06)
    assert users["ada"].max_devices == 3
    assert users["bob"].used_s == 600.0
    assert users["bob"].device_s_left is None
    assert (teams["red"].share, teams["default"].used_s) == (2.0, 0.0)
    assert teams["red"].used_s == pytest.approx(users["ada"].used_s + 600.0)
    assert teams["red"].device_s_left == pytest.approx(9 * HOUR_S - 1600.0)


def test_a_month_begins_anew(services: Services) -> None:
    services.teams.create("red", HOST, {"device_hours": 1.0})
    first = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
    assert month_start(NOW) == first
    with services.database.write() as session:
        charge(session, "ada", "red", 2 * HOUR_S, first - 1)
    with services.database.read() as session:
        before = usage_now(session, first - 1, WEEK_S)[1]["red"]
        after = usage_now(session, first + 1, WEEK_S)[1]["red"]
    assert (before.device_s_left, after.device_s_left) == (0.0, HOUR_S)
    assert after.used_s > HOUR_S
