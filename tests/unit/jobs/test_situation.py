"""What the policy is told of the box."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from opensloth.accounts.rows import UsageRow, UserRow
from opensloth.accounts.usage import month_start
from opensloth.devices.rows import DeviceRow, HostRow
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.jobs.situation import Situation, read_situation, still_holds
from opensloth.services import Services
from tests.support.boxes import GIB, add_host, add_job, now_of, plan_now, set_row


def seen(services: Services) -> Situation:
    with services.database.read() as session:
        return read_situation(session, services.settings)


def set_attempt(services: Services, job_id: str, **columns) -> None:
    with services.database.write() as session:
        session.execute(update(AttemptRow).where(AttemptRow.job_id == job_id).values(**columns))


def test_a_queued_job_brings_its_memory_its_team_and_what_is_left_of_its_time(services: Services):
    add_job(
        services,
        team="red",
        devices=2,
        memory_bytes=5 * GIB,
        exclusive=True,
        expected_s=1000.0,
        time_limit_s=700.0,
        run_s=300.0,
        own_rank=-2,
    )
    [job] = seen(services).queue
    assert (job.team, job.devices, job.memory, job.exclusive, job.own_rank) == ("red", 2, 5 * GIB, True, -2)
    assert (job.expected_s, job.time_limit_s) == (700.0, 400.0)


def test_a_job_that_was_stopped_needs_what_it_said_and_a_new_start(services: Services):
    add_job(services, expected_s=1000.0, run_s=300.0, progress={"eta_s": 90.0, "at": 1.0})
    assert seen(services).queue[0].expected_s == 150.0


def test_devices_that_drain_or_are_quarantined_take_nothing_and_foreign_memory_is_taken(services: Services):
    ids = add_host(services, 3)
    set_row(services, DeviceRow, ids[0], draining=True)
    set_row(services, DeviceRow, ids[1], quarantined="it does not free its memory")
    set_row(services, DeviceRow, ids[2], foreign_bytes=7 * GIB)
    devices = seen(services).devices
    assert [(d.usable, d.memory, d.foreign) for d in devices] == [
        (False, 80 * GIB, 0),
        (False, 80 * GIB, 0),
        (True, 80 * GIB, 7 * GIB),
    ]


def test_hosts_that_drain_or_are_silent_are_left_out(services: Services):
    add_host(services, 1, "drains")
    add_host(services, 1, "silent")
    set_row(services, HostRow, "drains", draining=True)
    set_row(services, HostRow, "silent", seen_at=now_of(services) - 60)
    assert seen(services).devices == []


def test_a_running_job_holds_what_it_was_given_or_more_if_more_was_measured(services: Services):
    add_host(services, 1)
    job_id = add_job(services, memory_bytes=10 * GIB, team="red")
    assert plan_now(services) == 1
    assert seen(services).running[0].memory == 10 * GIB
    set_attempt(services, job_id, peak_bytes=12 * GIB, promised_end=99.0)
    [job] = seen(services).running
    assert (job.memory, job.promised_end, job.team, job.device_ids) == (12 * GIB, 99.0, "red", ("h:0",))


def test_a_whole_device_stays_whole_whatever_was_measured(services: Services):
    add_host(services, 1)
    job_id = add_job(services, memory_bytes=10 * GIB, exclusive=True)
    plan_now(services)
    set_attempt(services, job_id, peak_bytes=12 * GIB)
    assert seen(services).running[0].memory is None


@pytest.mark.parametrize(
    ("progress", "expected_s", "limit_s", "end"),
    [
        (None, None, None, None),
        (None, 500.0, None, 500.0),
        (None, 500.0, 400.0, 400.0),
        ({"eta_s": 50.0, "at": 100.0}, 500.0, None, 150.0),
        ({"eta_s": 50.0, "at": -100.0}, 500.0, None, 500.0),
    ],
    ids=["nobody knows", "by the estimate", "by its limit", "by its own word", "not by an earlier attempt's word"],
)
def test_the_end_of_a_running_job_is_expected(services: Services, progress, expected_s, limit_s, end):
    add_host(services, 1)
    job_id = add_job(services, expected_s=expected_s, time_limit_s=limit_s)
    plan_now(services)
    placed_at = seen(services).running[0].started_at
    if progress:
        set_row(services, JobRow, job_id, progress={**progress, "at": placed_at + progress["at"]})
    found = seen(services).running[0].expected_end
    assert found == (None if end is None else pytest.approx(placed_at + end))


def test_accounts_have_what_was_used_and_what_runs_counts_against_the_month(services: Services):
    add_host(services, 2)
    now = now_of(services)
    with services.database.write() as session:
        session.add(
            UserRow(name="ann", team="default", role="member", created_at=now, max_devices=3, device_hours=2.0, share=2)
        )
        session.add(UsageRow(owner="ann", team="default", day=int(now // 86400), device_s=3600.0))
    job_id = add_job(services, "ann", 2)
    plan_now(services)
    set_attempt(services, job_id, placed_at=now - 600)
    account = seen(services).usage.users["ann"]
    assert (account.used_s, account.share, account.max_devices) == (3600.0, 2.0, 3)
    running = 2 * min(600.0, now - month_start(now))
    assert account.device_s_left == pytest.approx(2 * 3600 - 3600 - running, abs=60)


def test_a_plan_is_made_anew_if_a_device_was_given_or_taken_meanwhile(services: Services):
    ids = add_host(services, 2)
    before = seen(services)
    add_job(services)
    with services.database.read() as session:
        assert still_holds(session, before, services.settings)
    plan_now(services)
    with services.database.read() as session:
        assert not still_holds(session, before, services.settings)
    before = seen(services)
    set_row(services, DeviceRow, ids[1], draining=True)
    with services.database.read() as session:
        assert not still_holds(session, before, services.settings)
