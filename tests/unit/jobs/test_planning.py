"""A round applies what the policy says, once."""

from __future__ import annotations

from sqlalchemy import select

from opensloth.devices.rows import DeviceLeaseRow
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.jobs.transitions import Start, start_all
from opensloth.services import Services
from tests.support.boxes import GIB, add_host, add_job, now_of, plan_now, set_row
from tests.support.jobs import ADMIN


def attempt_of(services: Services, job_id: str) -> AttemptRow:
    with services.database.read() as session:
        return session.scalars(select(AttemptRow).where(AttemptRow.job_id == job_id)).one()


def test_jobs_that_fit_share_a_device_and_each_has_its_lease_and_its_memory(services: Services):
    add_host(services, 1)
    jobs = [add_job(services, memory_bytes=10 * GIB) for _ in range(2)]
    whole = add_job(services)
    assert plan_now(services) == 2
    with services.database.read() as session:
        leases = session.execute(select(DeviceLeaseRow.device_id, DeviceLeaseRow.job_id)).all()
    assert sorted(leases) == sorted(("h:0", job_id) for job_id in jobs)
    assert [attempt_of(services, job_id).memory_bytes for job_id in jobs] == [10 * GIB] * 2
    job = services.jobs.get(jobs[0], ADMIN)
    assert (job.state, job.attempt, job.devices) == ("starting", 1, ["h:0"])
    assert [(e.seq, e.data["to"], e.message) for e in services.events.list(jobs[0])] == [
        (1, "starting", "placed on h:0")
    ]
    assert services.jobs.get(whole, ADMIN).state == "queued"


def test_one_that_is_let_past_has_the_time_by_which_it_must_be_gone(services: Services):
    add_host(services, 2)
    add_job(services, expected_s=1000.0)
    assert plan_now(services) == 1
    add_job(services, "ben", 2, expected_s=100.0)
    quick = add_job(services, "cem", expected_s=300.0)
    assert plan_now(services) == 1
    promised = attempt_of(services, quick).promised_end
    assert promised is not None
    assert abs(promised - now_of(services) - 1000.0) < 60.0


def test_a_job_that_is_queued_no_more_is_left_out(services: Services):
    add_host(services, 2)
    first, second = add_job(services), add_job(services)
    set_row(services, JobRow, first, state="cancelled")
    starts = [Start(job_id, "h", (f"h:{n}",), None, None) for n, job_id in enumerate((first, second))]
    with services.database.write() as session:
        assert [start.job_id for start in start_all(session, services.events, starts, 30.0)] == [second]
    with services.database.read() as session:
        assert session.scalars(select(DeviceLeaseRow.job_id)).all() == [second]
    assert services.jobs.get(first, ADMIN).state == "cancelled"


def test_the_start_of_a_job_that_never_waited_is_its_promise(services: Services):
    add_host(services, 1)
    job_id = add_job(services)
    told = add_job(services, promised_start=5.0)
    plan_now(services)
    plan_now(services)
    with services.database.read() as session:
        starts = {row.id: row.promised_start for row in session.scalars(select(JobRow))}
    assert abs((starts[job_id] or 0) - now_of(services)) < 60
    assert starts[told] == 5.0
