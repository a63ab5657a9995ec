"""A deleted job leaves nothing, also after a kill; what somebody needs is not deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from opensloth.accounts.callers import Caller
from opensloth.database import Base
from opensloth.errors import Conflict, NotAllowed, NotFound
from opensloth.events.rows import EventRow
from opensloth.jobs.rows import CheckpointRow, JobRow
from opensloth.models.registry import add_result
from opensloth.models.rows import ModelRow
from opensloth.services import Services
from opensloth.storage.rows import StorageDeletionRow
from opensloth.storage.store import Storage
from tests.support.jobs import ADMIN, add_file, body, submit

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def count(services: Services, table: type[Base]) -> int:
    with services.database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def tree(services: Services, key: str) -> None:
    folder = services.settings.home / "tree"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x" * 100)
    services.storage.put_tree(folder, key, move=True)


def ended(services: Services, state: str = "succeeded", name: str = "steps=5") -> str:
    """A job that is over, with a checkpoint, a log and a result."""
    job_id = submit(services, name)
    tree(services, f"jobs/{job_id}/checkpoints/step-00000005")
    tree(services, f"jobs/{job_id}/artifacts")
    services.storage.put_bytes(f"jobs/{job_id}/logs/attempt-1.log", b"a line\n")
    with services.database.write() as session:
        key = f"jobs/{job_id}/checkpoints/step-00000005"
        session.add(CheckpointRow(job_id=job_id, step=5, attempt=1, key=key, bytes=100, save_s=0.1, metrics={},
                                  created_at=1.0))  # fmt: skip
        result = None
        if state == "succeeded":
            lora = {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}
            model = add_result(session, job_id=job_id, base_id="tiny", owner="admin", team="default", name="x",
                               size=100, lora=lora,
                               key=f"jobs/{job_id}/artifacts")  # fmt: skip
            result = {"model": model, "artifacts": [{"name": "weights", "bytes": 100, "sha256": "0"}]}
        values = {"state": state, "ended_at": 1.0, "result": result}
        session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))
    return job_id


def test_a_deleted_job_leaves_nothing(services: Services) -> None:
    job_id, other = ended(services), ended(services)
    services.deletion.delete(job_id, ADMIN)
    with pytest.raises(NotFound):
        services.jobs.get(job_id, ADMIN)
    with pytest.raises(NotFound):
        services.deletion.delete(job_id, ADMIN)
    assert services.storage.list_keys("jobs") == [other]
    assert services.storage.list_keys(".aside") == []
    assert count(services, StorageDeletionRow) == 0
    with services.database.read() as session:
        assert set(session.scalars(select(EventRow.job_id))) == {other}
        assert set(session.scalars(select(ModelRow.job_id))) == {None, other}


@ON_SQLITE
def test_what_was_killed_between_the_rows_and_the_files_is_done_again(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = ended(services)
    with monkeypatch.context() as dying:
        dying.setattr(Storage, "delete", lambda self, key: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            services.deletion.delete(job_id, ADMIN)
    with pytest.raises(NotFound):
        services.jobs.get(job_id, ADMIN)
    assert services.storage.list_keys("jobs") == [job_id]
    assert services.deletions.redo(3600.0) == 0, "whoever deletes it may be at it still"
    assert services.deletions.redo(0.0) == 1
    assert services.storage.list_keys("jobs") == []
    assert services.deletions.redo(0.0) == 0


@ON_SQLITE
def test_what_was_killed_in_the_middle_of_the_files_is_done_again(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = ended(services)
    with monkeypatch.context() as dying:
        # Renamed aside, then killed.
        dying.setattr("opensloth.storage.folder.shutil.rmtree", lambda path, **_: _die(path))
        with pytest.raises(SystemExit):
            services.deletion.delete(job_id, ADMIN)
    assert services.storage.list_keys("jobs") == []
    assert len(services.storage.list_keys(".aside")) == 1
    assert services.deletions.redo(0.0) == 1
    assert services.storage.list_keys(".aside") == []


def _die(path: Path) -> None:
    if path.exists():
        raise SystemExit("killed")


@ON_SQLITE
def test_a_storage_that_fails_is_asked_again(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = ended(services)
    with monkeypatch.context() as away:
        away.setattr(Storage, "delete", lambda self, key: (_ for _ in ()).throw(OSError("stale file handle")))
        services.deletion.delete(job_id, ADMIN)
        assert services.deletions.redo(0.0) == 0
    assert services.deletions.redo(0.0) == 1
    assert services.storage.list_keys("jobs") == []


@ON_SQLITE
def test_a_job_that_is_not_over_or_not_ones_own_is_not_deleted(services: Services) -> None:
    job_id = submit(services)
    for state in ("waiting", "queued", "starting", "running", "stopping", "paused"):
        with services.database.write() as session:
            session.execute(update(JobRow).where(JobRow.id == job_id).values(state=state))
        with pytest.raises(Conflict) as refused:
            services.deletion.delete(job_id, ADMIN)
        assert refused.value.error_code == "not_over"
    with pytest.raises(NotAllowed):
        services.deletion.delete(job_id, Caller("bob", "member"))


@ON_SQLITE
def test_a_job_whose_result_is_in_use_is_not_deleted(services: Services) -> None:
    job_id = ended(services)
    exported = services.exports.submit(job_id, {"format": "merged_16bit"}, ADMIN)[0].id
    with pytest.raises(Conflict, match=exported) as refused:
        services.deletion.delete(job_id, ADMIN)
    assert refused.value.error_code == "in_use"
    with pytest.raises(Conflict):
        services.models.delete(job_id, ADMIN)
    services.control.cancel(exported, ADMIN)
    spec = body(services, add_file(services), "steps=2")
    spec["opensloth_config"]["fast_model_args"]["model_name"] = job_id
    child = services.jobs.submit(spec, ADMIN)[0].id
    with pytest.raises(Conflict, match=child):
        services.deletion.delete(job_id, ADMIN)
    services.control.cancel(child, ADMIN)
    services.deletion.delete(job_id, ADMIN)
    assert services.jobs.get(child, ADMIN).state == "cancelled"


@ON_SQLITE
def test_a_job_that_another_one_waits_for_is_not_deleted(services: Services) -> None:
    first = submit(services)
    second = submit(services, depends_on=[first])
    services.control.cancel(first, ADMIN)
    assert services.jobs.get(second, ADMIN).state == "cancelled"
    services.deletion.delete(first, ADMIN)
    assert services.jobs.get(second, ADMIN).depends_on == []
    services.deletion.delete(second, ADMIN)


@ON_SQLITE
def test_the_job_of_a_base_that_others_were_trained_on_is_not_deleted(services: Services) -> None:
    job_id, child = ended(services), ended(services)
    result = services.jobs.get(job_id, ADMIN).result
    assert result is not None
    with services.database.write() as session:
        session.execute(update(ModelRow).where(ModelRow.job_id == child).values(base_id=result.model))
    with pytest.raises(Conflict, match="the model ft:tiny"):
        services.deletion.delete(job_id, ADMIN)
    services.deletion.delete(child, ADMIN)
    services.deletion.delete(job_id, ADMIN)
