"""A clock that steps makes a lease look over; whether its host still renews it is seen all the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sqlalchemy import update

from opensloth.database import db_now
from opensloth.jobs.rows import JobRow
from opensloth.services import Services
from tests.support.jobs import submit
from worker.renewals import Renewals


def leased_until(services: Services, job_id: str, from_now_s: float) -> None:
    with services.database.write() as session:
        values = {"state": "running", "attempt": 1, "lease_until": db_now() + from_now_s}
        session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))


def test_a_lease_is_recent_until_it_has_stood_still_for_its_time(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("worker.renewals.time", SimpleNamespace(monotonic=lambda: now))
    job_id, renewals = submit(services), Renewals(services.database, lease_s=30.0)
    assert renewals.recent() == set()
    leased_until(services, job_id, 30.0)
    assert renewals.recent() == {(job_id, 1)}
    now += 20.0
    leased_until(services, job_id, -3600.0)  # renewed, before the clock went an hour forward
    assert renewals.recent() == {(job_id, 1)}
    now += 29.0
    assert renewals.recent() == {(job_id, 1)}
    now += 2.0
    assert renewals.recent() == set()
