"""A disk that is full: a clear reason, the old checkpoint intact, not ready, and all goes on once there is room."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from migrations.__main__ import upgrade
from opensloth.jobs.rows import CheckpointRow
from opensloth.services import Services
from opensloth.settings import Settings
from opensloth.training.records import Records
from tests.support.faults import fill, refused, small_disk, went_well
from tests.support.http_server import serve
from tests.support.jobs import ADMIN, add_file, add_model, body, submit, wait_for, wait_for_state
from tests.support.workers import running_worker, trainers_of

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
LONG = {"lease_s": 60.0, "host_timeout_s": 60.0}
"""A loaded machine must not lose a lease here."""
FOREVER = "steps=100000 step_s=0.05 save=5 fat=200"


def why_it_was_queued(services: Services, job_id: str) -> list[tuple[str, str]]:
    events = services.events.list(job_id, limit=10_000)
    return [
        (e.data["reason"], e.message) for e in events if e.type == "state" and e.data["to"] == "queued" and e.attempt
    ]


def goes_on_from_its_checkpoint(services: Services, job_id: str) -> None:
    wait_for_state(services, job_id, "running", timeout=60)
    events = services.events.list(job_id, limit=10_000)
    assert [event.data["resumed_step"] for event in events if event.type == "started"][-1] >= 5
    services.control.cancel(job_id, ADMIN, save=False)
    wait_for_state(services, job_id, "cancelled", timeout=60)
    wait_for(lambda: not trainers_of(job_id))


@SQLITE
@pytest.mark.parametrize("full", ["storage", pytest.param("home", marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_while_a_job_runs_costs_an_attempt_and_no_checkpoint(
    settings: Settings, tmp_path: Path, full: str
) -> None:
    with small_disk(tmp_path / "disk", 24) as disk:
        place = {"storage_url": str(disk / "storage")} if full == "storage" else {"home": disk / "home"}
        settings = settings.model_copy(update={**place, **LONG, "auth": "off", "min_free_bytes": 4 << 20})
        services = Services.make(settings)
        with serve(settings) as url, running_worker(settings, tmp_path):
            job_id = submit(services, FOREVER, max_retries=3)
            wait_for(lambda: services.jobs.checkpoints(job_id, ADMIN), timeout=60)
            filler = fill(disk)
            ((reason, message),) = wait_for(lambda: why_it_was_queued(services, job_id), timeout=60)
            assert reason == "storage_error"
            assert "No space left on device" in message or "is full" in message
            ready = httpx.get(f"{url}/readyz", timeout=30)
            assert (ready.status_code, ready.json()["parts"]["disk"]) == (503, "short")
            spec = body(services, services.jobs.get(job_id, ADMIN).spec["dataset"])
            assert httpx.post(f"{url}/v1/jobs", json=spec, timeout=30).status_code == 507
            with services.database.read() as session:
                keys = session.scalars(select(CheckpointRow.key).where(CheckpointRow.job_id == job_id)).all()
            for key in keys:
                services.storage.verify_tree(key)
            aside = services.storage.folder / ".aside" if services.storage.folder else disk
            assert not [path for path in aside.rglob("*") if path.is_file()], "half a checkpoint keeps no room"
            filler.unlink()
            wait_for(lambda: httpx.get(f"{url}/readyz", timeout=30).status_code == 200)
            goes_on_from_its_checkpoint(services, job_id)
        services.database.engine.dispose()


@pytest.mark.slow
@SQLITE
def test_a_database_without_room_refuses_clearly_and_goes_on_with_room(settings: Settings, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 24) as disk:
        settings = settings.model_copy(
            update={**LONG, "database_url": f"sqlite:///{disk / 'a.db'}", "auth": "off", "min_free_bytes": 0}
        )
        upgrade(settings.database)
        services = Services.make(settings)
        add_model(services)
        spec = body(services, add_file(services))
        with serve(settings) as url, running_worker(settings, tmp_path):
            job_id = submit(services, "steps=100000 step_s=0.02 save=5")
            wait_for(lambda: services.jobs.checkpoints(job_id, ADMIN), timeout=60)
            filler = fill(disk)
            answer = wait_for(
                lambda: (made := httpx.post(f"{url}/v1/jobs", json=spec, timeout=60)).status_code != 201 and made, 60
            )
            assert refused(answer)
            assert answer.json()["code"] == "database_full"
            ready = wait_for(
                lambda: (asked := httpx.get(f"{url}/readyz", timeout=60)).status_code == 503 and asked, 60, 0.5
            )
            assert ready.json()["parts"]["database"] == "away"
            assert httpx.get(f"{url}/v1/jobs/{job_id}", timeout=30).status_code == 200
            filler.unlink()
            wait_for(lambda: httpx.get(f"{url}/readyz", timeout=60).status_code == 200)
            services.control.cancel(job_id, ADMIN, save=False)
            wait_for_state(services, job_id, "cancelled", timeout=60)
            made = httpx.post(f"{url}/v1/jobs", json=spec, timeout=60)
            assert made.status_code == 201
            went_well(services, made.json()["id"], 5)
        services.database.engine.dispose()


def test_a_record_for_which_there_is_no_room_leaves_no_half_line(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        path = disk / "events.jsonl"
        records = Records(path)
        filler = fill(disk, leave=8192)
        written = 0

        def write_until_full() -> None:
            nonlocal written
            while True:
                records.log("x" * 1000)
                written += 1

        with pytest.raises(OSError, match="No space"):
            write_until_full()
        filler.unlink()
        records.log("there is room again")
        lines = [json.loads(line)["message"] for line in path.read_text().splitlines()]
        assert lines == ["x" * 1000] * written + ["there is room again"]
