"""A rolling upgrade of one version: this release with tables that are newer, too new, or older than it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from fastapi.testclient import TestClient
from sqlalchemy import text

import migrations.__main__ as migrations
from api.main import create_app
from opensloth.database import Database
from opensloth.schema import WrongSchema, code_revision, require_schema
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import add_file, add_model, body, submit, wait_for, wait_for_state
from tests.support.workers import Worker, running_worker

BOTH = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def of_the_next_release(services: Services, *, floor: str | None = None) -> None:
    """What its migration adds: columns, with and without a default, and a table; `floor`: it also takes something."""
    with services.database.write() as session:
        for statement in (
            "ALTER TABLE jobs ADD COLUMN of_tomorrow VARCHAR",
            "ALTER TABLE attempts ADD COLUMN of_tomorrow BIGINT NOT NULL DEFAULT 7",
            "ALTER TABLE hosts ADD COLUMN of_tomorrow VARCHAR NOT NULL DEFAULT 'x'",
            "CREATE TABLE tomorrows (job_id VARCHAR PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE)",
            "UPDATE alembic_version SET version_num = '9998'",
        ):
            session.execute(text(statement))
        if floor is not None:
            session.execute(text("UPDATE schema_floor SET revision = :floor"), {"floor": floor})


@pytest.mark.slow
@BOTH
def test_a_worker_and_an_api_live_with_tables_of_the_next_release(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    add_model(services)
    of_the_next_release(services)
    key = services.keys.create("admin", "admin")[1]
    headers = {"Authorization": f"Bearer {key}"}
    with running_worker(settings, tmp_path) as worker, TestClient(create_app(settings), headers=headers) as client:
        answer = client.post("/v1/jobs", json=body(services, add_file(services), "steps=8 save=3 kill@5"))
        assert answer.status_code < 300, answer.text
        job_id = answer.json()["id"]
        job = wait_for_state(services, job_id, "succeeded", "failed", timeout=120)
        assert (job.state, job.attempt) == ("succeeded", 2), job.error
        assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "succeeded"
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 200
        assert "the database is newer than this release, which goes on" in worker.log.read_text()
    again = run_migrations(settings)
    assert (again.returncode, "nothing is changed" in again.stdout) == (0, True), again.stderr


def run_migrations(settings: Settings) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OPENSLOTH_DATABASE_URL": settings.database, "OPENSLOTH_HOME": str(settings.home)}
    return subprocess.run(
        [sys.executable, "-m", "migrations"], env=environment, capture_output=True, text=True, check=False
    )


@BOTH
def test_a_release_that_cannot_live_with_the_database_says_so(services: Services, settings: Settings) -> None:
    of_the_next_release(services, floor="9997")
    with pytest.raises(WrongSchema, match="releases before revision 9997 cannot use"):
        require_schema(services.database)
    with pytest.raises(WrongSchema), TestClient(create_app(settings)):
        pass
    refused = run_migrations(settings)
    assert refused.returncode == 1
    assert "install the release that the other processes have" in refused.stderr


@BOTH
def test_a_database_that_is_behind_is_told_with_the_command_that_helps(services: Services, settings: Settings) -> None:
    command.downgrade(migrations.config(settings.database), "-1")
    with pytest.raises(WrongSchema, match=f"this release needs {code_revision()}") as caught:
        require_schema(services.database)
    assert "python -m migrations" in (caught.value.hint or "")
    with pytest.raises(WrongSchema), TestClient(create_app(settings)):
        pass
    migrations.upgrade(settings.database)
    require_schema(services.database)


def test_an_empty_database_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "new.db").touch()
    with pytest.raises(WrongSchema, match="has no tables yet"):
        require_schema(Database(f"sqlite:///{tmp_path / 'new.db'}"))


@pytest.mark.slow
@ON_SQLITE
def test_a_worker_that_is_too_old_or_too_early_does_not_start(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    of_the_next_release(services, floor="9998")
    worker = Worker(settings, tmp_path / "worker.log")
    worker.start()
    assert worker.process is not None
    assert worker.process.wait(120) == 1
    assert "cannot use; this one knows" in worker.log.read_text()


@pytest.mark.slow
@ON_SQLITE
def test_a_worker_that_is_outgrown_while_it_runs_saves_its_jobs_and_leaves(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    with running_worker(settings, tmp_path) as worker:
        job_id = submit(services, "steps=100000 step_s=0.05")
        wait_for_state(services, job_id, "running", timeout=120)
        of_the_next_release(services, floor="9998")
        assert worker.process is not None
        wait_for(lambda: worker.process is not None and worker.process.poll() is not None, timeout=200)
        assert "this worker stops: the database is at revision 9998" in worker.log.read_text()
        job = wait_for_state(services, job_id, "queued")
        assert job.reason == "drained"
