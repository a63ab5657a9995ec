"""Which checkpoint a run resumes from where some of them cannot be read."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from opensloth.storage import Storage, StorageUnavailable
from opensloth.training.checkpoints import Checkpoints
from opensloth.training.records import Records
from tests.support.flaky_store import flaky
from tests.support.training import make_run

NEWEST, OLDER = "jobs/j/checkpoints/attempt-1/step-00000020", "jobs/j/checkpoints/attempt-1/step-00000010"


@pytest.mark.parametrize("fault", ["its disk fails", "it may not be read", "it is no file"])
def test_a_checkpoint_that_cannot_be_read_is_passed_over_for_an_older_one(tmp_path: Path, fault: str) -> None:
    with flaky() as store:
        storage = Storage(str(tmp_path / "store") if fault == "it is no file" else "flaky://box/a", patience_s=0.1)
        checkpoints = _two(tmp_path, storage)
        if fault == "it is no file":
            file = tmp_path / "store" / NEWEST / "state"
            file.unlink()
            file.mkdir()
        store.before = _fail_at(NEWEST, PermissionError(13, "no") if "may not" in fault else OSError(errno.EIO, "bad"))
        records = Records(tmp_path / "events.jsonl")
        local = checkpoints.fetch_newest(records)
    assert local is not None
    assert (local / "state").read_text() == OLDER
    told = (tmp_path / "events.jsonl").read_text()
    assert f"{NEWEST} is passed over" in told
    assert "cannot be read" in told


def test_where_none_can_be_read_the_run_fails_and_does_not_begin_anew(tmp_path: Path) -> None:
    with flaky() as store:
        checkpoints = _two(tmp_path, Storage("flaky://box/a", patience_s=0.1))
        store.before = _fail_at("jobs/j", OSError(errno.EIO, "bad"))
        with pytest.raises(StorageUnavailable, match="no checkpoint can be read"):
            checkpoints.fetch_newest(None)


def test_no_older_checkpoint_is_taken_for_want_of_room_or_of_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flaky() as store:
        storage = Storage("flaky://box/a", patience_s=0.1)
        checkpoints = _two(tmp_path, storage)
        store.before = _fail_at(NEWEST, OSError(errno.ENOSPC, "full"))
        with pytest.raises(OSError, match="full"):
            checkpoints.fetch_newest(None)
        store.before = _fail_at(NEWEST, OSError(errno.EIO, "away"))
        monkeypatch.setattr(store, "exists", lambda *_, **__: False)
        with pytest.raises(StorageUnavailable, match="away"):
            checkpoints.fetch_newest(None)


def _two(folder: Path, storage: Storage) -> Checkpoints:
    for key in (NEWEST, OLDER):
        (folder / "made").mkdir()
        (folder / "made" / "state").write_text(key)
        storage.put_tree(folder / "made", key, move=True)
    run = make_run(
        folder, Path("m"), storage_url=storage.url, rows=[], attempt=2, resume_from=NEWEST, checkpoints=[NEWEST, OLDER]
    )
    return Checkpoints(run, storage)


def _fail_at(part: str, error: OSError) -> Callable[[str, str], None]:
    def before(operation: str, path: str) -> None:
        if operation == "get" and part in path:
            raise error

    return before
