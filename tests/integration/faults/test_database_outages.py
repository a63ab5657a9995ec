"""The database gone or locked for longer than a lease, before the start and in the middle: what ended is told, and a
lost lease is nobody's fault."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from opensloth.database import Database
from opensloth.errors import Unavailable
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.faults import BOTH, api_process, jobs_there, refused, went_well
from tests.support.http_server import serve
from tests.support.jobs import ADMIN, add_file, add_model, body, submit, wait_for, wait_for_state
from tests.support.wire import Wire, wire_to
from tests.support.workers import running_worker, trainers_of

LEASE_S = 8.0
POSTGRES = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Outage:
    """Takes the database away from what runs with `settings`; the test itself still reaches it to read."""

    def __init__(self, settings: Settings, wire: Wire | None) -> None:
        changes = {"lease_s": LEASE_S, "auth": "off"} | ({"database_url": wire.url} if wire else {})
        self.settings = settings.model_copy(update=changes)
        self._wire = wire
        self._writer: sqlite3.Connection | None = None

    def begin(self) -> None:
        """PostgreSQL is gone; SQLite has a writer that does not let go."""
        if self._wire is not None:
            self._wire.cut()
            return
        path = str(self.settings.database).removeprefix("sqlite:///")
        self._writer = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._writer.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        """It is there again."""
        if self._wire is not None:
            self._wire.restore()
        elif self._writer is not None:
            self._writer.close()
            self._writer = None


@pytest.fixture
def outage(settings: Settings) -> Iterator[Outage]:
    if settings.database.startswith("sqlite"):
        made = Outage(settings, None)
        yield made
        made.end()
    else:
        with wire_to(settings.database) as wire:
            yield Outage(settings, wire)


def steps_told(services: Services, job_id: str) -> int:
    return sum(event.type == "metrics" for event in services.events.list(job_id, limit=10_000))


def leases_over(services: Services, settings: Settings) -> Callable[[], bool]:
    """Whether a lease that was renewed a moment ago would be over by now, by the database's clock."""
    from opensloth.database import now_of

    def now() -> float:
        with services.database.read() as session:
            return now_of(session)

    began = now()
    return lambda: now() > began + settings.lease_s + 0.5


def reasons(services: Services, job_id: str) -> list[str]:
    events = services.events.list(job_id, limit=10_000)
    return [event.data["reason"] for event in events if event.type == "state" and event.data.get("reason")]


@BOTH
def test_a_job_that_ends_while_the_database_is_away_is_told_when_it_is_back(
    services: Services, outage: Outage, tmp_path: Path
) -> None:
    with running_worker(outage.settings, tmp_path):
        job_id = submit(services, "steps=60 step_s=0.02 save=20")
        wait_for(lambda: steps_told(services, job_id) >= 5, timeout=60)
        outage.begin()
        over = leases_over(services, outage.settings)
        wait_for(lambda: not trainers_of(job_id))
        wait_for(over)
        outage.end()
        went_well(services, job_id, 60)
        assert services.jobs.get(job_id, ADMIN).attempt == 1
        assert reasons(services, job_id) == []


@BOTH
def test_a_worker_that_is_told_to_go_while_the_database_is_away_saves_and_queues_its_job(
    services: Services, outage: Outage, tmp_path: Path
) -> None:
    with running_worker(outage.settings, tmp_path) as worker:
        job_id = submit(services, "steps=100000 step_s=0.02")
        wait_for(lambda: steps_told(services, job_id) >= 1, timeout=60)
        outage.begin()
        assert worker.process is not None
        worker.process.terminate()
        wait_for(lambda: not trainers_of(job_id), timeout=60)
        outage.end()
        assert worker.process.wait(60) == 0
        job = services.jobs.get(job_id, ADMIN)
        assert (job.state, job.reason) == ("queued", "drained")
        assert services.jobs.checkpoints(job_id, ADMIN)


@pytest.mark.slow
@BOTH
def test_an_outage_longer_than_a_lease_costs_an_interval_and_no_host_is_taken_for_lost(
    services: Services, outage: Outage, tmp_path: Path
) -> None:
    hosts = [outage.settings.model_copy(update={"devices": "cpu:1"})]
    if not services.database.is_sqlite:  # SQLite is for one host
        hosts.append(hosts[0].model_copy(update={"host_id": "other", "home": tmp_path / "other"}))
    for host in hosts:
        (tmp_path / f"log-{host.host_id}").mkdir()
    with running_worker(hosts[0], tmp_path / "log-box") as worker:
        jobs = [submit(services, "steps=100000 step_s=0.02 save=5", max_retries=0) for _ in hosts]
        if len(hosts) == 2:
            with running_worker(hosts[1], tmp_path / "log-other"):
                outlive(services, outage, jobs)
        else:
            outlive(services, outage, jobs)
        assert "its lease ran out" not in worker.log.read_text()


def outlive(services: Services, outage: Outage, jobs: list[str]) -> None:
    for job_id in jobs:
        wait_for(lambda job_id=job_id: services.jobs.checkpoints(job_id, ADMIN), timeout=60)
    outage.begin()
    over = leases_over(services, outage.settings)
    for job_id in jobs:
        wait_for(lambda job_id=job_id: not trainers_of(job_id))
    wait_for(over)
    outage.end()
    for job_id in jobs:
        wait_for(lambda job_id=job_id: services.jobs.get(job_id, ADMIN).attempt == 2, timeout=60)
        wait_for_state(services, job_id, "running", timeout=60)
        assert reasons(services, job_id) == ["lease_lost"]
        events = services.events.list(job_id, limit=10_000)
        assert [event.data["resumed_step"] for event in events if event.type == "started"][1] >= 5
        assert len(trainers_of(job_id)) == 1
    for job_id in jobs:
        services.control.cancel(job_id, ADMIN, save=False)
        wait_for_state(services, job_id, "cancelled", timeout=60)


@pytest.mark.slow
@POSTGRES
def test_what_is_started_without_its_database_says_so_and_comes_up_with_it(
    services: Services, outage: Outage, tmp_path: Path
) -> None:
    add_model(services)
    spec = body(services, add_file(services))
    outage.begin()
    with api_process(outage.settings, tmp_path) as url, running_worker(outage.settings, tmp_path) as worker:
        ready = httpx.get(f"{url}/readyz", timeout=30)
        assert (ready.status_code, ready.json()["parts"]["database"]) == (503, "away")
        assert refused(httpx.post(f"{url}/v1/jobs", json=spec, timeout=30))
        wait_for(lambda: "this worker waits" in worker.log.read_text(), timeout=60)
        outage.end()
        wait_for(lambda: httpx.get(f"{url}/readyz", timeout=30).status_code == 200)
        made = httpx.post(f"{url}/v1/jobs", json=spec, timeout=30)
        assert made.status_code == 201, made.text
        went_well(services, made.json()["id"], 5)


@pytest.mark.slow
@BOTH
def test_requests_are_refused_clearly_while_the_database_is_locked(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    job_id = submit(services)
    with serve(settings.model_copy(update={"auth": "off"})) as url, locked_against_writers(services.database):
        assert refused(httpx.post(f"{url}/v1/jobs/{job_id}/cancel", timeout=60))
        assert httpx.get(f"{url}/v1/jobs/{job_id}", timeout=60).json()["state"] == "queued"
        assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200
        ready = httpx.get(f"{url}/readyz", timeout=60)
        assert (ready.status_code, ready.json()["parts"]["database"]) == (503, "away")
    with serve(settings.model_copy(update={"auth": "off"})) as url:
        assert httpx.post(f"{url}/v1/jobs/{job_id}/cancel", timeout=60).json()["state"] == "cancelled"
        assert httpx.get(f"{url}/readyz", timeout=60).status_code == 200


@contextmanager
def locked_against_writers(database: Database) -> Iterator[None]:
    """Somebody holds what every writer needs, as a long maintenance does."""
    if database.is_sqlite:
        writer = sqlite3.connect(database.url.removeprefix("sqlite:///"), isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
    else:
        writer = psycopg.connect(database.url)  # type: ignore[assignment]
        tables = writer.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        names = ", ".join(f'"{name}"' for (name,) in tables)
        writer.execute(f"LOCK TABLE {names} IN EXCLUSIVE MODE")
    try:
        yield
    finally:
        writer.close()


@POSTGRES
@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        pytest.param("placed", b"INSERT INTO device_leases", marks=pytest.mark.slow),
        ("taken up", b"RETURNING jobs.id"),
        pytest.param("started", b"the first step is done", marks=pytest.mark.slow),
        pytest.param("ended", b"the result is", marks=pytest.mark.slow),
    ],
)
def test_a_commit_of_the_worker_that_is_applied_but_reported_failed_changes_nothing(
    services: Services, outage: Outage, tmp_path: Path, moment: str, sent: bytes
) -> None:
    wire = outage._wire
    assert wire is not None
    job_id = submit(services, "steps=12 save=4")
    wire.lose_answer_after(sent)
    with running_worker(outage.settings.model_copy(update={"lease_s": 60.0, "host_timeout_s": 60.0}), tmp_path):
        went_well(services, job_id, 12)
    assert wire.lost == 1
    assert services.jobs.get(job_id, ADMIN).attempt == (2 if moment == "taken up" else 1)


@POSTGRES
def test_a_submission_that_is_committed_but_reported_failed_is_found_again_under_its_key(
    services: Services, outage: Outage
) -> None:
    add_model(services)
    spec, headers = body(services, add_file(services)), {"Idempotency-Key": "mine"}
    wire = outage._wire
    assert wire is not None
    with serve(outage.settings) as url:
        wire.lose_answer_after(b"INSERT INTO idempotency_keys")
        assert refused(httpx.post(f"{url}/v1/jobs", json=spec, headers=headers, timeout=30))
        assert wire.lost == 1
        assert jobs_there(services) == 1
        again = httpx.post(f"{url}/v1/jobs", json=spec, headers=headers, timeout=30)
        assert again.status_code in (200, 201)
        assert jobs_there(services) == 1


@POSTGRES
def test_a_server_that_hangs_is_given_up(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opensloth.connections._SILENCE_S", 0.5)
    with wire_to(services.database.url) as wire:
        database = Database(wire.url)
        database.ping()
        wire.hang()
        with pytest.raises(Unavailable):
            database.ping()
        wire.restore()
        database.ping()
        database.engine.dispose()
