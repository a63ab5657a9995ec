"""The disk of the storage is not mounted: nothing is taken in, started or failed until it is, also after a start."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.faults import refused, went_well
from tests.support.http_server import serve
from tests.support.jobs import ADMIN, body, submit, wait_for
from tests.support.workers import running_worker


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("away", ["since before the start", "while it runs"])
def test_while_the_storage_is_not_mounted_jobs_wait(settings: Settings, tmp_path: Path, away: str) -> None:
    settings = settings.model_copy(update={"auth": "off"})
    services = Services.make(settings)
    job_id, held = submit(services, "steps=3"), submit(services, "steps=4")
    services.control.pause(held, ADMIN)
    place, disk = Path(settings.storage), tmp_path / "disk"

    def unmount() -> None:
        place.rename(disk)
        place.mkdir()

    if away == "since before the start":
        unmount()
    with serve(settings) as url, running_worker(settings, tmp_path) as worker:
        if away == "while it runs":
            went_well(services, job_id, 3)
            unmount()
            services.control.resume(held, ADMIN)
            job_id = held
        wait_for(lambda: "nothing is started: the storage" in worker.log.read_text(), timeout=60)
        ready = httpx.get(f"{url}/readyz", timeout=30)
        assert (ready.status_code, ready.json()["parts"]["storage"]) == (503, "away")
        assert refused(httpx.post(f"{url}/v1/jobs", json=body(services, "file-1"), timeout=30))
        assert services.jobs.get(job_id, ADMIN).state == "queued"
        assert not [path for path in place.rglob("*") if path.is_file()]
        place.rmdir()
        disk.rename(place)
        went_well(services, job_id, 4 if job_id == held else 3)
    services.database.engine.dispose()
