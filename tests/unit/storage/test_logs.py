"""Logs that grow, in a directory and in an object store, which cannot append."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from opensloth.storage import Storage
from opensloth.storage.logs import PART_BYTES, LogWriter, read_log
from tests.support.flaky_store import FlakyStore, flaky

KEY = "jobs/1/logs/attempt-1.log"


@pytest.fixture(params=["directory", "objects"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    with flaky():
        yield Storage(str(tmp_path / "store") if request.param == "directory" else "flaky://box")


def grow(path: Path, size: int) -> None:
    with path.open("ab") as file:
        begin = file.tell()
        file.write(bytes((begin + n) % 251 for n in range(size)))


def whole(storage: Storage) -> bytes:
    read = b""
    while piece := read_log(storage, KEY, len(read), 300_000):
        read += piece
    return read


def test_what_grows_is_read_as_it_was_written(storage: Storage, tmp_path: Path) -> None:
    local, writer = tmp_path / "trainer.log", LogWriter(storage, KEY)
    writer.ship(local)
    assert whole(storage) == b"", "there is no log yet"
    for size in (10, 0, PART_BYTES - 10, 1, 2 * PART_BYTES, 77):
        grow(local, size)
        writer.ship(local)
        assert writer.offset == local.stat().st_size
        assert whole(storage) == local.read_bytes()
    assert read_log(storage, KEY, 10**9, 10) == b""
    assert storage.list_keys("jobs/1/logs") == ["attempt-1.log"]
    assert storage.usage("jobs/1/logs").bytes == local.stat().st_size
    storage.delete(KEY)
    assert whole(storage) == b""


def test_a_new_writer_begins_anew(storage: Storage, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    grow(old, 2 * PART_BYTES + 5)
    LogWriter(storage, KEY).ship(old)
    new.write_bytes(b"short")
    LogWriter(storage, KEY).ship(new)
    assert whole(storage) == b"short"


def test_a_write_that_failed_is_done_again_at_its_place(storage: Storage, tmp_path: Path) -> None:
    local, writer = tmp_path / "trainer.log", LogWriter(storage, KEY)
    grow(local, 100)
    writer.ship(local)
    grow(local, 100)
    writer.ship(local)
    writer.offset = 100  # as after a write that was reported failed, and had been done
    grow(local, 50)
    writer.ship(local)
    assert whole(storage) == local.read_bytes()


def test_a_part_that_is_full_is_never_written_again(tmp_path: Path) -> None:
    with flaky() as store:
        storage, local = Storage("flaky://box"), tmp_path / "trainer.log"
        writer = LogWriter(storage, KEY)
        for _ in range(40):
            grow(local, PART_BYTES // 8)
            writer.ship(local)
        written = [path for operation, path in FlakyStore.calls if operation == "put"]
        assert len(set(written)) == 5
        assert written == sorted(written)
        assert max(len(file.getvalue()) for file in store.store.values()) == PART_BYTES
