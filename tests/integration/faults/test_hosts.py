"""Two hosts over one PostgreSQL, Valkey and storage: one dies or is cut off, the other goes on with its jobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import make_url, select

from api.main import create_app
from opensloth.devices.rows import HostRow
from opensloth.jobs.rows import AttemptRow, CheckpointRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import ADMIN, submit, wait_for, wait_for_state
from tests.support.networks import FarHost, far_host, relay
from tests.support.s3 import make_bucket, point_to, s3_server
from tests.support.up_process import is_gone
from tests.support.workers import Worker, running_worker, trainers_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("database_url", ["postgresql"], indirect=True),
]
BOTH = pytest.mark.parametrize("settings", ["folder", "s3"], indirect=True)
NAME = "steps=100000 step_s=0.05 save=20"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server("0.0.0.0") as url:
        yield url.replace("0.0.0.0", "127.0.0.1")


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Settings:
    """The host `near`, with one slot."""
    change = {"host_id": "near", "devices": "cpu:1", "lease_s": 20.0, "lease_renew_s": 2.0}
    if request.param == "s3":
        url = request.getfixturevalue("s3")
        point_to(monkeypatch, url)
        bucket = tmp_path.name.replace("_", "-")[-30:].strip("-")
        make_bucket(url, bucket)
        change["storage_url"] = f"s3://{bucket}/opensloth"
        # Trainers learn from the worker's environment which store's credentials they need.
        monkeypatch.setenv("OPENSLOTH_STORAGE_URL", change["storage_url"])
    return settings.model_copy(update=change)


def resumed(services: Services, job_id: str) -> list[int]:
    events = services.events.list(job_id, limit=10_000)
    return [event.data["resumed_step"] for event in events if event.type == "started"]


def host_of(services: Services, job_id: str) -> str:
    """The host of its latest attempt."""
    with services.database.read() as session:
        mine = select(AttemptRow.host_id).where(AttemptRow.job_id == job_id)
        return session.scalars(mine.order_by(AttemptRow.attempt.desc())).first() or ""


def begun_on(services: Services, host: str) -> str:
    """A job that runs there and has a checkpoint."""
    job_id = submit(services, NAME)
    wait_for(lambda: services.jobs.checkpoints(job_id, ADMIN), timeout=120)
    assert host_of(services, job_id) == host
    return job_id


def wait_for_host(services: Services, host: str) -> None:
    def there() -> bool:
        with services.database.read() as session:
            return session.get(HostRow, host) is not None

    wait_for(there, timeout=120)


def announced(services: Services, job_id: str, attempt: int) -> list[int]:
    with services.database.read() as session:
        mine = CheckpointRow.job_id == job_id, CheckpointRow.attempt == attempt
        return sorted(session.scalars(select(CheckpointRow.step).where(*mine)))


def ends_well_and_leaves_nothing(services: Services, settings: Settings, *over: str) -> None:
    """A job's result is downloaded through the API, whole and in part, and all jobs deleted with what they stored."""
    for running in over:
        services.control.cancel(running, ADMIN, save=False)
        wait_for_state(services, running, "cancelled", timeout=120)
    job_id = submit(services, "steps=5 save=2")
    job = wait_for_state(services, job_id, "succeeded", "failed", timeout=180)
    assert job.state == "succeeded", job.error
    key = services.keys.create("tester", "admin")[1]
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {key}"}) as client:
        assert client.get("/readyz").json()["parts"]["storage"] == "ok"
        (file,) = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
        address = f"/v1/jobs/{job_id}/artifacts/{file['name']}"
        whole = client.get(address)
        assert (whole.status_code, len(whole.content)) == (200, file["bytes"])
        part = client.get(address, headers={"Range": "bytes=5-14"})
        assert (part.status_code, part.content) == (206, whole.content[5:15])
        assert client.get(address, headers={"Range": "bytes=-4"}).content == whole.content[-4:]
        assert client.get(address, headers={"Range": f"bytes={file['bytes']}-"}).status_code == 416
        assert client.get(f"/v1/jobs/{job_id}/artifacts/all.zip").content[:2] == b"PK"
        content = client.get(f"/v1/files/{job.dataset_id}/content")
        assert len(content.content) == int(content.headers["content-length"]) > 0
        for mine in (job_id, *over):
            assert client.delete(f"/v1/jobs/{mine}").status_code == 200
        assert services.storage.list_keys("jobs") == []
        assert client.post("/v1/gc").status_code == 200


@BOTH
def test_the_jobs_of_a_host_that_dies_go_on_at_the_other(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    far = settings.model_copy(update={"host_id": "far", "home": tmp_path / "far"})
    with running_worker(far, tmp_path) as dying:
        job_id = begun_on(services, "far")
        settings.home.mkdir(exist_ok=True)
        with running_worker(settings, settings.home):
            wait_for_host(services, "near")
            known = announced(services, job_id, 1)
            dying.kill()
            wait_for(lambda: len(resumed(services, job_id)) == 2, timeout=120)
            assert resumed(services, job_id)[1] >= max(known)
            ends_well_and_leaves_nothing(services, settings, job_id)


def far_worker(stack: ExitStack, settings: Settings, host: FarHost, folder: Path) -> Worker:
    """A worker that reaches database, Valkey and S3 over the cable alone."""
    database, valkey = make_url(settings.database_url or ""), urlsplit(settings.redis)
    socket = f"{database.query['host']}/.s.PGSQL.5432"
    database_port = stack.enter_context(relay(host.gateway, socket))
    valkey_port = stack.enter_context(relay(host.gateway, (valkey.hostname or "", valkey.port or 0)))
    there = settings.model_copy(
        update={
            "host_id": "far",
            "home": folder / "far",
            "database_url": f"postgresql://postgres@{host.gateway}:{database_port}/{database.database}",
            "redis_url": f"redis://{host.gateway}:{valkey_port}/0",
        }
    )
    environment = {"NO_PROXY": host.gateway}
    if "AWS_ENDPOINT_URL" in os.environ:
        environment["AWS_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"].replace("127.0.0.1", host.gateway)
    inside = ["ip", "netns", "exec", host.namespace]
    return stack.enter_context(running_worker(there, folder, inside=inside, environment=environment))


@BOTH
def test_a_host_that_is_cut_off_lets_go_and_the_other_goes_on(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        host = stack.enter_context(far_host())
        far = far_worker(stack, settings, host, tmp_path)
        job_id = begun_on(services, "far")
        (trainer,) = trainers_of(job_id)
        settings.home.mkdir(exist_ok=True)
        stack.enter_context(running_worker(settings, settings.home))
        wait_for_host(services, "near")
        host.cut_off()
        try:
            leaves_before_another_begins(services, job_id, trainer)
            known = announced(services, job_id, 1)
            wait_for(lambda: len(resumed(services, job_id)) == 2, timeout=180)
            assert host_of(services, job_id) == "near"
            assert resumed(services, job_id)[1] == max(known), "only what was announced counts"
        finally:
            host.rejoin()
        wait_for(lambda: "not ours any more" in far.log.read_text(), timeout=120)
        assert set(announced(services, job_id, 1)) <= set(known)
        second = submit(services, NAME)
        wait_for_state(services, second, "running", timeout=120)
        assert host_of(services, second) == "far", "it takes part again"
        attempts = [event.attempt for event in services.events.list(job_id, limit=10_000)]
        assert attempts == sorted(attempts), "nothing of the first attempt came after the second began"
        ends_well_and_leaves_nothing(services, settings, job_id, second)


def leaves_before_another_begins(services: Services, job_id: str, trainer: psutil.Process) -> None:
    """The trainer of the first attempt goes by itself; nobody begins a second one before."""

    def gone() -> bool:
        attempt = services.jobs.get(job_id, ADMIN).attempt
        over = is_gone(trainer)
        assert over or attempt == 1
        return over

    wait_for(gone, timeout=120)
