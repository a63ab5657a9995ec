"""Cleaning removes what is too old or known to nobody, says before what that is, and leaves what is kept or needed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from sqlalchemy import select, update

from opensloth.accounts.callers import Caller
from opensloth.errors import InsufficientStorage, NotAllowed
from opensloth.jobs.retention import RetentionService
from opensloth.jobs.rows import CheckpointRow, JobRow
from opensloth.services import Services
from opensloth.settings import Settings
from opensloth.storage import space
from tests.support.jobs import ADMIN, add_file, submit
from tests.unit.jobs.test_deletion import ended
from worker.housekeeping import Housekeeping

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def retention(services: Services, **days: float) -> RetentionService:
    settings = services.settings.model_copy(update={f"keep_{kind}_days": age for kind, age in days.items()})
    return RetentionService(services.database, services.storage, services.deletions, settings)


def parts(services: Services, job_id: str) -> list[str]:
    return services.storage.list_keys(f"jobs/{job_id}")


def age(folder: Path, days: float) -> None:
    then = time.time() - days * 86_400
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


def test_without_settings_nothing_goes_by_age(services: Services) -> None:
    job_id = ended(services)
    report = retention(services).collect(ADMIN, dry_run=False)
    assert (report.count, report.bytes) == (0, 0)
    assert retention(services).expire() == 0
    assert parts(services, job_id) == ["artifacts", "checkpoints", "logs"]


def test_a_dry_run_says_what_would_go_and_removes_nothing(services: Services) -> None:
    job_id = ended(services)
    cleaner = retention(services, checkpoints=1, logs=2, results=3)
    report = cleaner.collect(ADMIN, dry_run=True)
    assert sorted(item.kind for item in report.items) == ["checkpoints", "logs", "result"]
    assert report.kinds["logs"] == 7
    assert report.kinds["checkpoints"] >= 100
    assert report.bytes == sum(report.kinds.values())
    assert parts(services, job_id) == ["artifacts", "checkpoints", "logs"]
    done = cleaner.collect(ADMIN, dry_run=False)
    assert (done.count, done.bytes) == (report.count, report.bytes)
    assert parts(services, job_id) == []
    job = services.jobs.get(job_id, ADMIN)
    assert job.result is not None
    assert (job.state, job.result.model, job.result.artifacts) == ("succeeded", None, [])
    assert services.jobs.checkpoints(job_id, ADMIN) == []
    assert cleaner.collect(ADMIN, dry_run=False).count == 0


def test_what_is_kept_young_needed_or_not_over_stays(services: Services) -> None:
    kept, young, needed, running = ended(services), ended(services), ended(services), submit(services)
    services.control.change(kept, ADMIN, keep=True)
    services.exports.submit(needed, {"format": "adapter"}, ADMIN)
    with services.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == young).values(ended_at=time.time()))
    services.storage.put_bytes(f"jobs/{running}/logs/attempt-1.log", b"a line\n")
    assert retention(services, checkpoints=1, logs=1, results=1).expire() == 2
    assert parts(services, kept) == parts(services, young) == ["artifacts", "checkpoints", "logs"]
    assert parts(services, needed) == ["artifacts"]
    assert parts(services, running) == ["logs"]


def test_checkpoints_that_a_retry_goes_on_from_stay(services: Services) -> None:
    first, retry = ended(services, "failed"), submit(services)
    with services.database.write() as session:
        row = session.scalars(select(CheckpointRow).where(CheckpointRow.job_id == first)).one()
        session.execute(update(JobRow).where(JobRow.id == retry).values(retry_of=first))
        session.add(CheckpointRow(job_id=retry, step=5, attempt=0, key=row.key, bytes=1, save_s=1, metrics={},
                                  created_at=1.0))  # fmt: skip
    assert retention(services, checkpoints=1).expire() == 0
    services.control.cancel(retry, ADMIN)
    assert retention(services, checkpoints=1).expire() == 1
    assert services.jobs.checkpoints(retry, ADMIN) == []


def test_orphans_go_after_a_day_and_only_when_an_admin_asks(services: Services) -> None:
    job_id, file_id = ended(services), add_file(services)
    store = services.storage.folder
    assert store is not None
    for key in ("jobs/ftjob-gone", "files/file-gone", "models/gone", "jobs/ftjob-new"):
        (store / key).mkdir(parents=True)
        (store / key / "content").write_bytes(b"x" * 10)
        if key != "jobs/ftjob-new":
            age(store / key, 2)
    for folder in ("jobs", "files", "models"):
        age(store / folder / {"jobs": job_id, "files": file_id, "models": "tiny"}[folder], 9)
    assert retention(services).expire() == 0
    found = retention(services).collect(ADMIN, dry_run=True)
    assert sorted(item.key for item in found.items) == ["files/file-gone", "jobs/ftjob-gone", "models/gone"]
    assert found.kinds == {"orphan": 30}
    retention(services).collect(ADMIN, dry_run=False)
    assert services.storage.list_keys("jobs") == sorted([job_id, "ftjob-new"])
    assert file_id in services.storage.list_keys("files")
    assert "file-gone" not in services.storage.list_keys("files")
    assert services.storage.list_keys("models") == ["tiny"]


def test_only_an_admin_cleans(services: Services) -> None:
    with pytest.raises(NotAllowed):
        services.retention.collect(Caller("bob", "member"), dry_run=True)


def test_with_a_short_disk_nothing_is_taken_in(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submit(services)
    assert space.shortage(services.storage, services.settings.home, 0) is None
    monkeypatch.setattr(space, "shortage", lambda *_: "the storage has 0.01 GiB free, and 2.00 GiB are kept free")
    for take_in in (lambda: submit(services), lambda: services.files.spool("x.jsonl")):
        with pytest.raises(InsufficientStorage, match="GiB free") as refused:
            take_in()
        assert "opensloth gc" in (refused.value.hint or "")
    assert services.control.cancel(job_id, ADMIN).state == "cancelled"


def test_a_growing_upload_is_refused_when_the_disk_gets_short(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opensloth.datasets.upload.LOOK_EVERY_BYTES", 10)
    spool = services.files.spool("x.jsonl")
    monkeypatch.setattr(space, "shortage", lambda *_: "the storage has 0.01 GiB free")
    with pytest.raises(InsufficientStorage):
        spool.write(b'{"text": "more than ten bytes"}\n')
    spool.discard()


def test_a_worker_removes_the_scratch_of_jobs_that_are_over(services: Services, settings: Settings) -> None:
    import threading

    old, fresh, live = ended(services), ended(services, "failed"), submit(services)
    with services.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == fresh).values(ended_at=time.time()))
    for name in (old, fresh, live, "ftjob-gone"):
        (settings.runs / name / "1").mkdir(parents=True)
    Housekeeping(services, threading.Event()).look()
    assert sorted(entry.name for entry in settings.runs.iterdir()) == sorted([fresh, live])
