"""Jobs on the GPUs of a driver made of files: shares, neighbours, foreign processes, and GPUs that fail."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from opensloth.devices.health import SILENT
from opensloth.devices.rows import DeviceLeaseRow, DeviceRow
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support import fake_nvml
from tests.support.fake_nvml import gpu
from tests.support.jobs import ADMIN, submit, wait_for, wait_for_state
from tests.support.workers import trainers_of
from worker.host import Host

GIB = 1 << 30
FOREVER = "steps=100000 step_s=0.05"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv(fake_nvml.VARIABLE, str(tmp_path / "driver"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    fake_nvml.write(gpus=[gpu("GPU-0"), gpu("GPU-1")])
    values = {"devices": "auto", "nvml_module": "tests.support.fake_nvml", "nvml_timeout_s": 1.0, "device_free_s": 2.0}
    # Leases of the length that a service has: a loaded machine must not lose one here.
    return settings.model_copy(update={**values, "lease_s": 30.0, "host_timeout_s": 60.0, "heartbeat_s": 0.1})


@pytest.fixture
def host(services: Services) -> Iterator[Host]:
    host = Host(services)
    host.start()
    yield host
    fake_nvml.write(gpus=[gpu("GPU-0"), gpu("GPU-1")])
    host.drain()


def device(services: Services, device_id: str = "GPU-0") -> DeviceRow:
    with services.database.read() as session:
        return session.get_one(DeviceRow, device_id)


def attempts(services: Services, job_id: str) -> list[AttemptRow]:
    with services.database.read() as session:
        query = select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.attempt)
        return list(session.scalars(query))


def leases(services: Services) -> set[str]:
    with services.database.read() as session:
        return set(session.scalars(select(DeviceLeaseRow.job_id)))


def sharing(services: Services, *names: str, memory: str = "30GiB") -> list[str]:
    """Jobs that share GPU-0, the only one in service."""
    services.devices.set_draining("GPU-1", True, ADMIN)
    jobs = [submit(services, name, resources={"memory": memory}) for name in names]
    for job_id in jobs:
        wait_for_state(services, job_id, "running")
    return jobs


only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_rows_follow_the_driver_and_foreign_processes_count(services: Services, host: Host) -> None:
    fake_nvml.write(gpus=[gpu("GPU-0", foreign={os.getppid(): 9 * GIB}), gpu("GPU-1")])
    row = wait_for(lambda: (row := device(services)).foreign_bytes and row)
    assert (row.foreign_bytes, row.used_bytes, row.utilization, row.temperature) == (9 * GIB, 9 * GIB, 42, 55)
    assert row.processes == [{"pid": os.getppid(), "bytes": 9 * GIB, "job_id": None}]
    assert (row.memory_bytes, row.name) == (80 * GIB, "Fake GPU")
    assert device(services, "GPU-1").foreign_bytes == 0


@only_sqlite
def test_what_a_job_used_is_measured_and_kept(services: Services, host: Host) -> None:
    job_id = submit(services, FOREVER + " claim=7")
    row = wait_for(lambda: (row := device(services)).processes and row)
    assert [(entry["bytes"], entry["job_id"]) for entry in row.processes] == [(7 * GIB, job_id)]
    assert row.foreign_bytes == 0
    wait_for_state(services, job_id, "running")
    services.control.cancel(job_id, ADMIN)
    host.wake()
    wait_for_state(services, job_id, "cancelled")
    (attempt,) = attempts(services, job_id)
    assert attempt.peak_bytes == 7 * GIB
    assert attempt.first_step_at is not None


@only_sqlite
def test_a_drained_gpu_keeps_its_job_and_gets_no_other(services: Services, host: Host) -> None:
    first = submit(services, FOREVER)
    wait_for_state(services, first, "running")
    where = attempts(services, first)[0].device_ids[0]
    services.devices.set_draining(where, True, ADMIN)
    other = "GPU-1" if where == "GPU-0" else "GPU-0"
    services.devices.set_draining(other, True, ADMIN)
    second = submit(services, FOREVER)
    services.devices.set_draining(other, False, ADMIN)
    host.wake()
    wait_for_state(services, second, "running")
    assert attempts(services, second)[0].device_ids == [other]
    assert services.jobs.get(first, ADMIN).state == "running"


@only_sqlite
def test_a_lost_gpu_is_quarantined_and_its_job_goes_on_elsewhere_uncharged(services: Services, host: Host) -> None:
    job_id = submit(services, FOREVER + " save=2")
    wait_for(lambda: services.jobs.checkpoints(job_id, ADMIN))
    lost = attempts(services, job_id)[0].device_ids[0]
    fake_nvml.write(gpus=[gpu(name, lost=name == lost) for name in ("GPU-0", "GPU-1")])
    wait_for(lambda: len(attempts(services, job_id)) == 2)
    wait_for_state(services, job_id, "running")
    first, second = attempts(services, job_id)
    assert first.outcome == "device_lost"
    assert second.device_ids != [lost]
    assert second.resumed_step
    row = device(services, lost)
    assert "GPU is lost" in str(row.quarantined)
    assert row.quarantined_at is not None
    with services.database.read() as session:
        assert session.get_one(JobRow, job_id).retries == 0


@only_sqlite
def test_a_gpu_with_uncorrectable_errors_is_quarantined(services: Services, host: Host) -> None:
    wait_for(lambda: device(services).used_bytes is not None)
    fake_nvml.write(gpus=[gpu("GPU-0", ecc=1), gpu("GPU-1", xids=[79])])
    assert "ECC" in wait_for(lambda: device(services).quarantined)
    assert "Xid 79" in wait_for(lambda: device(services, "GPU-1").quarantined)


@only_sqlite
def test_a_gpu_that_does_not_free_its_memory_is_quarantined_and_its_job_ends(services: Services, host: Host) -> None:
    job_id = submit(services, FOREVER + " claim=7")
    wait_for_state(services, job_id, "running")
    where = attempts(services, job_id)[0].device_ids[0]
    fake_nvml.write(gpus=[gpu(name, extra=7 * GIB if name == where else 0) for name in ("GPU-0", "GPU-1")])
    services.control.cancel(job_id, ADMIN)
    host.wake()
    wait_for_state(services, job_id, "cancelled")
    assert f"not free after {job_id}" in str(device(services, where).quarantined)
    assert leases(services) == set()


@only_sqlite
def test_a_driver_that_hangs_takes_its_gpus_out_and_gives_them_back(services: Services, host: Host) -> None:
    fake_nvml.write(hang=True)
    wait_for(lambda: device(services).quarantined == SILENT)
    fake_nvml.write(gpus=[gpu("GPU-0"), gpu("GPU-1")])
    wait_for(lambda: device(services).quarantined is None)


@only_sqlite
def test_a_job_beyond_its_share_ends_alone(services: Services, host: Host) -> None:
    greedy, modest = sharing(services, FOREVER + " claim=20 grow=40", FOREVER + " claim=20")
    job = wait_for_state(services, greedy, "failed")
    assert job.reason == "cuda_oom"
    assert job.error is not None
    assert "40.0 GiB" in job.error.message
    assert "30.0 GiB" in job.error.message
    assert "resources.memory" in str(job.error.hint)
    assert services.jobs.get(modest, ADMIN).state == "running"
    assert attempts(services, greedy)[0].peak_bytes == 40 * GIB
    assert leases(services) == {modest}


@only_sqlite
def test_a_neighbour_that_dies_of_it_is_tried_again_uncharged(
    services: Services, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.share._OVER_IN_A_ROW", 10**9)  # the greedy one outlives the other
    (victim,) = sharing(services, FOREVER + " claim=20 oom_above=50")
    submit(services, FOREVER + " claim=20 grow=40", resources={"memory": "30GiB"})
    wait_for(lambda: attempts(services, victim)[0].outcome)
    assert attempts(services, victim)[0].outcome == "crowded_out"
    with services.database.read() as session:
        assert session.get_one(JobRow, victim).retries == 0


@only_sqlite
def test_an_estimate_that_was_too_low_costs_no_retry_but_the_sharing(services: Services, host: Host) -> None:
    services.devices.set_draining("GPU-1", True, ADMIN)
    services.devices.set_draining("GPU-0", True, ADMIN)
    job_id = submit(services, FOREVER + " claim=20")
    with services.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(memory_bytes=8 * GIB))
    services.devices.set_draining("GPU-0", False, ADMIN)
    host.wake()
    wait_for(lambda: len(attempts(services, job_id)) == 2)
    wait_for_state(services, job_id, "running")
    first, second = attempts(services, job_id)
    assert (first.memory_bytes, first.outcome, second.memory_bytes) == (8 * GIB, "estimate_low", None)
    with services.database.read() as session:
        assert session.get_one(JobRow, job_id).retries == 0


@only_sqlite
def test_a_gpu_on_which_three_attempts_fail_is_quarantined_and_the_job_succeeds_elsewhere(
    services: Services, host: Host
) -> None:
    job_id = submit(services, "steps=3 bad_gpu=GPU-0", max_retries=0)
    wait_for_state(services, job_id, "succeeded", timeout=90)
    outcomes = [(attempt.device_ids[0], attempt.outcome) for attempt in attempts(services, job_id)]
    assert outcomes == [("GPU-0", "device_error")] * 3 + [("GPU-1", "succeeded")]
    assert "3 attempts in a row" in str(device(services).quarantined)


@only_sqlite
def test_devices_released_by_an_admin_are_used_again(services: Services, host: Host) -> None:
    for name in ("GPU-0", "GPU-1"):
        services.devices.quarantine(name, "for a test")
    job_id = submit(services, "steps=3")
    services.devices.release("GPU-1", ADMIN)
    host.wake()
    wait_for_state(services, job_id, "succeeded")
    assert attempts(services, job_id)[0].device_ids == ["GPU-1"]
    assert not trainers_of(job_id)


@pytest.fixture
def cpu_host(services: Services, settings: Settings) -> Iterator[Host]:
    values: dict[str, Any] = {"devices": "cpu:2"}
    made = Services.make(settings.model_copy(update=values))
    host = Host(made)
    host.start()
    yield host
    host.drain()
    made.database.engine.dispose()


@only_sqlite
def test_a_job_that_takes_more_memory_than_it_asked_for_ends_on_a_cpu_slot(services: Services, cpu_host: Host) -> None:
    job_id = submit(services, FOREVER + " eat=600", resources={"memory": "400MB"})
    job = wait_for_state(services, job_id, "failed")
    assert job.reason == "cpu_oom"
    assert job.error is not None
    assert "its share of 0.4 GiB" in job.error.message
    assert "resources.memory" in str(job.error.hint)


@only_sqlite
def test_when_the_hosts_memory_runs_out_the_largest_job_ends(
    services: Services, cpu_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = submit(services, FOREVER), submit(services, FOREVER + " eat=400")
    for job_id in (small, large):
        wait_for_state(services, job_id, "running")
    wait_for(lambda: any(row["bytes"] > 400 << 20 for n in (0, 1) for row in device(services, f"box:cpu{n}").processes))
    monkeypatch.setattr("worker.device_watch.memory_left", lambda: (10 if trainers_of(large) else 1000, 100))
    job = wait_for_state(services, large, "failed")
    assert job.reason == "cpu_oom"
    assert "memory ran out" in str(job.error.message if job.error else "")
    assert "0.4 GiB" in str(job.error.message if job.error else "")
    assert services.jobs.get(small, ADMIN).state == "running"


@only_sqlite
def test_a_job_that_the_kernel_ended_for_memory_is_told_so(
    services: Services, cpu_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = itertools.count()
    monkeypatch.setattr("worker.share.oom_kills", lambda: next(kills))  # more each time
    large = submit(services, FOREVER + " eat=400")
    wait_for_state(services, large, "running")
    wait_for(lambda: any(row["bytes"] > 400 << 20 for n in (0, 1) for row in device(services, f"box:cpu{n}").processes))
    small = submit(services, "steps=40 step_s=0.05 kill@5")
    wait_for_state(services, small, "succeeded")
    assert [attempt.outcome for attempt in attempts(services, small)] == ["crowded_out", "succeeded"]
    for process in trainers_of(large):
        process.kill()
    job = wait_for_state(services, large, "failed")
    assert job.reason == "cpu_oom"
