"""An object store that fails: tried again while it may recover, never half a tree, one kind of error at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opensloth.errors import InvalidInput
from opensloth.storage import Storage, StorageCorrupt, StorageUnavailable, errors
from opensloth.storage.cache import local_tree
from tests.support.flaky_store import FlakyStore, flaky


@pytest.fixture
def store() -> Iterator[type[FlakyStore]]:
    with flaky() as found:
        yield found


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "FIRST_WAIT_S", 0.001)


def tree(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def fails(times: int, error: Exception, on: str = "") -> Callable[[str, str], None]:
    """Raises `error` in the next `times` operations whose path ends with `on`."""
    left = [times]

    def before(operation: str, path: str) -> None:
        if path.endswith(on) and left[0] > 0:
            left[0] -= 1
            raise error

    return before


def test_what_fails_for_a_moment_is_tried_again(store: type[FlakyStore], tmp_path: Path) -> None:
    storage = Storage("flaky://box")
    store.before = staticmethod(fails(3, ConnectionResetError("reset by peer")))
    put = storage.put_tree(tree(tmp_path / "a", x="1", y="2"), "k", move=True)
    assert not (tmp_path / "a").exists()
    store.before = staticmethod(fails(2, TimeoutError("no answer")))
    storage.get_tree("k", tmp_path / "back")
    assert (tmp_path / "back/y").read_text() == "2"
    assert storage.list_tree("k") == put


def test_a_store_that_stays_away_is_told_as_one_error(store: type[FlakyStore], tmp_path: Path) -> None:
    storage = Storage("flaky://box", patience_s=0.05)
    store.before = staticmethod(fails(10_000, OSError("connection refused")))
    with pytest.raises(StorageUnavailable, match="does not answer: connection refused") as caught:
        storage.put_bytes("k", b"1")
    assert caught.value.error_code == "storage_error"
    assert len(store.calls) > 1


def test_what_cannot_pass_is_not_tried_again(store: type[FlakyStore]) -> None:
    store.before = staticmethod(fails(10_000, PermissionError("Access Denied")))
    with pytest.raises(StorageUnavailable, match="refuses: Access Denied"):
        Storage("flaky://box", patience_s=60).put_bytes("k", b"1")
    assert len(store.calls) == 1


@pytest.mark.parametrize("at", ["x", "y", "MANIFEST.json"])
def test_an_upload_that_breaks_leaves_nothing_that_looks_like_a_tree(
    store: type[FlakyStore], tmp_path: Path, at: str
) -> None:
    storage = Storage("flaky://box", patience_s=0.01)
    storage.put_tree(tree(tmp_path / "old", x="0", y="0"), "k")
    store.before = staticmethod(fails(10_000, OSError("gone"), on=at))
    with pytest.raises(StorageUnavailable):
        storage.put_tree(tree(tmp_path / "new", x="1", y="2"), "k", move=True)
    store.before = None
    assert storage.list_tree("k") is None
    assert (tmp_path / "new/y").exists(), "what was not stored is still here"
    storage.put_tree(tmp_path / "new", "k", move=True)
    storage.verify_tree("k")


def test_a_store_that_keeps_less_than_it_was_sent_has_no_tree(store: type[FlakyStore], tmp_path: Path) -> None:
    store.keep = 2
    with pytest.raises(StorageUnavailable, match="2 of its 5 bytes"):
        Storage("flaky://box").put_tree(tree(tmp_path / "a", x="12345"), "k")
    assert Storage("flaky://box").list_tree("k") is None


def test_a_large_object_is_read_in_blocks_each_of_which_is_tried_again(store: type[FlakyStore]) -> None:
    storage = Storage("flaky://box")
    content = bytes(range(256)) * 100_000
    storage.put_bytes("k", content)
    store.calls.clear()
    with storage.open("k") as file:
        store.before = staticmethod(fails(1, TimeoutError("no answer")))
        file.seek(1000)
        assert file.read(5000) == content[1000:6000]
        assert file.read() == content[6000:]
    assert 4 <= len(store.calls) <= 6


def test_a_trainer_waits_longer_than_somebody_who_asks() -> None:
    assert errors.TRAINER_PATIENCE_S > 10 * errors.PATIENCE_S


def test_a_url_that_nothing_reads_is_refused_with_what_to_install() -> None:
    with pytest.raises(InvalidInput, match="OPENSLOTH_STORAGE_URL cannot be used"):
        Storage("nosuch://bucket/path")


def test_a_tree_is_fetched_once_and_anew_when_its_content_is_another(store: type[FlakyStore], tmp_path: Path) -> None:
    storage, cache = Storage("flaky://box"), tmp_path / "cache"
    storage.put_tree(tree(tmp_path / "a", x="first"), "models/m")
    first = local_tree(storage, "models/m", cache)
    store.calls.clear()
    assert local_tree(storage, "models/m", cache) == first
    assert [path.rsplit("/", 1)[1] for _, path in store.calls] == ["MANIFEST.json"]
    storage.put_tree(tree(tmp_path / "b", x="second"), "models/m")
    assert (local_tree(storage, "models/m", cache) / "x").read_text() == "second"
    assert (first / "x").read_text() == "first", "a job that runs still has its own"


def test_a_damaged_tree_does_not_get_into_the_cache(store: type[FlakyStore], tmp_path: Path) -> None:
    storage, cache = Storage("flaky://box"), tmp_path / "cache"
    storage.put_tree(tree(tmp_path / "a", x="12345"), "models/m")
    storage.put_bytes("models/m/x", b"12346")
    with pytest.raises(StorageCorrupt, match="differs"):
        local_tree(storage, "models/m", cache)
    assert list(cache.iterdir()) == []
