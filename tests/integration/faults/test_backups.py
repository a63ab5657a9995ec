"""A backup that is made while a worker trains becomes a second box, whose jobs go on where they were."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from functools import partial
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from opensloth.backup.make import make_backup
from opensloth.backup.restore import restore
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support import servers
from tests.support.faults import BOTH, went_well
from tests.support.jobs import ADMIN, submit, wait_for, wait_for_state
from tests.support.workers import running_worker, trainers_of

STEPS = 600
RUNNING = f"steps={STEPS} step_s=0.05 save=20"


class Submitter(threading.Thread):
    """Submits small jobs until it is told to end; `job_ids` are those that were acknowledged."""

    def __init__(self, services: Services) -> None:
        super().__init__(daemon=True)
        self._services = services
        self.over = threading.Event()
        self.job_ids: list[str] = []
        self.start()

    def run(self) -> None:
        """At most a handful, as each has to run afterwards."""
        while len(self.job_ids) < 6:
            self.job_ids.append(submit(self._services))
            if self.over.wait(0.2):
                return


def step_of(services: Services, job_id: str) -> int:
    progress = services.jobs.get(job_id, ADMIN).progress
    return progress.step if progress else 0


def has_passed(services: Services, job_id: str, step: int) -> bool:
    return step_of(services, job_id) > step


@BOTH
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_jobs_go_on_in_the_box_and_in_the_one_made_from_its_backup(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    patient = settings.model_copy(update={"lease_s": 10.0, "lease_renew_s": 2.0})
    key = services.keys.create("admin", "admin")[1]
    with running_worker(patient, tmp_path):
        running = [submit(services, RUNNING) for _ in range(2)]
        for job_id in running:
            wait_for(partial(services.jobs.checkpoints, job_id, ADMIN), timeout=300)
        acknowledged = submit(services)
        submitter = Submitter(services)
        before = {job_id: services.jobs.checkpoints(job_id, ADMIN) for job_id in running}
        made = make_backup(settings, str(tmp_path / "box.tar"), with_storage=True)
        submitter.over.set()
        submitter.join(60)
        at_backup = {job_id: step_of(services, job_id) for job_id in running}
        for job_id in running:
            wait_for(partial(has_passed, services, job_id, at_backup[job_id]), timeout=300)
        assert [services.jobs.get(job_id, ADMIN).attempt for job_id in running] == [1, 1], "nobody was disturbed"
        services.control.cancel(running[1], ADMIN, save=False)
        went_well(services, running[0], STEPS)
    assert made.about.tables["jobs"] >= 3

    home = tmp_path / "second"
    with servers.valkey() as redis_url:
        place = {"database_url": f"sqlite:///{home / 'opensloth.db'}", "storage_url": str(home / "storage")}
        second = patient.model_copy(update={"home": home, "redis_url": redis_url, **place})
        restore(second, str(tmp_path / "box.tar"))
        there = Services.make(second)
        known = [job.id for job in there.jobs.list(ADMIN, limit=100)[0]]
        assert {*running, acknowledged} <= {*known} <= {*running, acknowledged, *submitter.job_ids}
        with running_worker(second, tmp_path):
            for job_id in known:
                if job_id not in running:
                    went_well(there, job_id, 5)
                assert wait_for_state(there, job_id, "succeeded", "failed", timeout=300).state == "succeeded"
        for job_id in running:
            events = there.events.list(job_id, limit=10_000)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            started = [event for event in events if event.type == "started"]
            (series,) = there.jobs.metrics(job_id, ADMIN, ["loss"])
            steps = [point["step"] for point in series["points"]]
            # A checkpoint may be newer than the rows; the points between them are the only ones that are not there.
            resumed, newest = started[1].data["resumed_step"], max(point.step for point in before[job_id])
            assert steps == sorted(set(steps))
            assert {*range(1, newest + 1), *range(resumed + 1, STEPS + 1)} <= {*steps} <= {*range(1, STEPS + 1)}
            assert [event.attempt for event in started] == [1, 2]
            assert started[1].data["resumed_step"] >= max(point.step for point in before[job_id])
            assert trainers_of(job_id) == []
        gives_what_it_made(second, key, running[0])
        there.database.engine.dispose()


def gives_what_it_made(box: Settings, key: str, job_id: str) -> None:
    """Over HTTP, to a key of before: the dataset of the job, its log and its result, each file as its hash says."""
    with TestClient(create_app(box), headers={"Authorization": f"Bearer {key}"}) as client:
        job = client.get(f"/v1/jobs/{job_id}").json()
        assert client.get(f"/v1/files/{job['dataset_id']}/content").status_code == 200
        assert client.get(f"/v1/jobs/{job_id}/logs").status_code == 200
        files = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
        assert files
        whole = client.get(f"/v1/jobs/{job_id}/artifacts/all.zip").raise_for_status()
        with zipfile.ZipFile(io.BytesIO(whole.content)) as packed:
            for file in files:
                content = packed.read(f"{job_id}/{file['name']}")
                assert hashlib.sha256(content).hexdigest() == file["sha256"]
