"""What queued and waiting jobs are told."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from opensloth.accounts.callers import Caller
from opensloth.accounts.rows import TeamRow
from opensloth.jobs.queue import QueueService
from opensloth.jobs.rows import DependencyRow, JobRow
from opensloth.jobs.situation import read_situation
from opensloth.scheduling.types import QueuedJob
from opensloth.services import Services
from tests.support.boxes import add_host, add_job, now_of, plan_now
from tests.support.jobs import ADMIN

RED, BLUE = Caller("ann", "member", "red"), Caller("ben", "member", "blue")


@pytest.fixture
def queue(services: Services) -> QueueService:
    return QueueService(services.database, services.settings)


def row_of(services: Services, job_id: str) -> JobRow:
    with services.database.read() as session:
        return session.get_one(JobRow, job_id)


def test_a_queued_job_shows_its_place_what_it_waits_for_and_when_it_starts(services: Services):
    add_host(services, 4)
    runs = add_job(services, expected_s=600.0)
    plan_now(services)
    waits = add_job(services, devices=4, expected_s=100.0)
    told = services.jobs.get(waits, ADMIN).queue
    assert told is not None
    assert told.position == 1
    assert told.waiting_for is not None
    when = r"[0-2]\d:[0-5]\d UTC( on \d+ [A-Z][a-z]+)?"
    assert re.fullmatch(f"4 GPUs; 3 free; the fourth is expected at {when} from {runs}", told.waiting_for)
    assert told.expected_start is not None
    assert services.jobs.get(runs, ADMIN).queue is None


def test_a_list_of_jobs_shows_it_too(services: Services):
    add_host(services, 1, kind="cpu")
    job_id = add_job(services)
    services.jobs.get(job_id, ADMIN)
    [listed], _ = services.jobs.list(ADMIN)
    assert listed.queue is not None
    assert listed.queue.waiting_for == "1 CPU slot; it is about to start"


def test_without_a_host_a_job_waits_for_a_worker(services: Services):
    told = services.jobs.get(add_job(services), ADMIN).queue
    assert told is not None
    assert told.waiting_for == "a worker: none is in service at the moment"


def test_a_waiting_job_says_which_jobs_it_waits_for_and_how_far_they_are(services: Services):
    add_host(services, 1)
    runs = add_job(services, expected_s=600.0)
    plan_now(services)
    queued, done, paused = add_job(services), add_job(services, state="succeeded"), add_job(services, state="paused")
    waits = add_job(services, state="waiting", queued_at=None)
    with services.database.write() as session:
        session.add_all(DependencyRow(job_id=waits, depends_on=other) for other in (runs, queued, done, paused))
    told = services.jobs.get(waits, ADMIN).queue
    assert told is not None
    assert told.position is None
    words = told.waiting_for or ""
    assert f"{runs}, which is expected to end at " in words
    assert f"{queued}, which is number 1 in the queue" in words
    assert f"{paused}, which is paused" in words
    assert done not in words


def test_another_teams_jobs_are_anonymous_in_the_queue_and_in_words(services: Services, queue: QueueService):
    add_host(services, 1)
    with services.database.write() as session:
        session.add_all(TeamRow(name=name, created_at=0.0) for name in ("red", "blue"))
    runs = add_job(services, "ann", team="red", expected_s=600.0)
    plan_now(services)
    first = add_job(services, "ann", team="red", expected_s=50.0)
    second = add_job(services, "ben", team="blue", expected_s=50.0, name="secret")
    entries, more = queue.entries(RED)
    by_id = {entry.id: entry for entry in entries}
    assert not more
    assert set(by_id) == {first, None}
    assert by_id[first].owner == "ann"
    assert by_id[first].priority == "normal"
    other = by_id[None].model_dump()
    assert other.pop("position") in (1, 2)
    assert other.pop("expected_start") is not None
    assert {name for name, value in other.items() if value is not None} == {"object", "devices"}
    blue = next(entry for entry in queue.entries(BLUE)[0] if entry.id == second)
    assert "another team's job" in (blue.waiting_for or "")
    assert runs not in (blue.waiting_for or "")
    assert {entry.id for entry in queue.entries(ADMIN)[0]} == {first, second}


def test_the_queue_has_pages(services: Services, queue: QueueService):
    jobs = [add_job(services, queued_at=float(n)) for n in range(5)]
    first, more = queue.entries(ADMIN, limit=2)
    assert ([entry.id for entry in first], more) == (jobs[:2], True)
    rest, more = queue.entries(ADMIN, limit=3, after=2)
    assert ([entry.position for entry in rest], more) == ([3, 4, 5], False)


def test_a_forecast_is_kept_for_a_moment_and_made_anew_for_what_it_does_not_know(
    services: Services, queue: QueueService
):
    add_job(services)
    first = queue.snapshot()
    assert queue.snapshot() is first
    later = add_job(services)
    newer = queue.newest(newer_than=now_of(services))
    assert newer is not None
    assert later in newer.jobs


def test_promises_are_written_once_and_stay(services: Services, queue: QueueService):
    add_host(services, 1)
    add_job(services, expected_s=600.0)
    plan_now(services)
    job_id = add_job(services, expected_s=60.0)
    assert queue.promise() == 1
    promised = row_of(services, job_id).promised_start
    assert promised == pytest.approx(now_of(services) + 600.0, abs=60)
    assert queue.promise() == 0
    add_job(services, priority=3, expected_s=10_000.0)
    assert queue.promise() == 1
    assert row_of(services, job_id).promised_start == promised
    assert services.jobs.get(job_id, ADMIN).promised_start is not None


def test_a_job_that_is_not_submitted_yet_is_told_what_it_would_be_told(services: Services, queue: QueueService):
    add_host(services, 2)
    add_job(services, devices=2, expected_s=600.0)
    plan_now(services)
    asked = QueuedJob("asked", "ann", 1, 0.0, 1, team="default", expected_s=10.0)
    view = queue.expected_start_of(asked)
    assert view.position == 1
    assert view.expected_start is not None
    assert queue.snapshot().jobs == {}
    nothing_like_it = replace(asked, devices=3)
    assert queue.expected_start_of(nothing_like_it).expected_start is None


def test_a_forecast_of_jobs_that_share_counts_their_memory(services: Services, queue: QueueService):
    add_host(services, 1)
    add_job(services, memory_bytes=60 * 2**30, expected_s=600.0)
    plan_now(services)
    large = add_job(services, memory_bytes=30 * 2**30, expected_s=60.0)
    small = add_job(services, memory_bytes=5 * 2**30, expected_s=60.0)
    with services.database.read() as session:
        now = read_situation(session, services.settings).now
    expected = queue.snapshot().expected
    assert expected[small].start == pytest.approx(now, abs=30)
    assert (expected[large].start or 0) > now + 500
