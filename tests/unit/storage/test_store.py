"""Trees are complete or not there, in a directory and in an object store alike."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from opensloth.storage import Storage, StorageCorrupt, StorageUnavailable
from opensloth.storage.folder import ASIDE
from opensloth.storage.manifest import MANIFEST, Usage


@pytest.fixture(params=["directory", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store") if request.param == "directory" else f"memory://{tmp_path.name}")


def make_tree(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_tree_comes_back_as_it_was_put(storage: Storage, tmp_path: Path) -> None:
    put = storage.put_tree(make_tree(tmp_path / "a", x="one", sub__y="two"), "jobs/1/checkpoints/step-1")
    assert [file.name for file in put] == ["sub/y", "x"]
    assert storage.list_tree("jobs/1/checkpoints/step-1") == put == storage.verify_tree("jobs/1/checkpoints/step-1")
    storage.get_tree("jobs/1/checkpoints/step-1", tmp_path / "back")
    assert (tmp_path / "back/sub/y").read_text() == "two"
    assert storage.list_keys("jobs/1/checkpoints") == ["step-1"]


def test_a_later_tree_replaces_an_earlier_one_whole(storage: Storage, tmp_path: Path) -> None:
    storage.put_tree(make_tree(tmp_path / "a", old="1"), "k")
    storage.put_tree(make_tree(tmp_path / "b", new="2"), "k", move=True)
    assert [file.name for file in storage.verify_tree("k")] == ["new"]
    assert not storage.exists("k/old")


def test_a_tree_without_its_manifest_is_not_there(storage: Storage, tmp_path: Path) -> None:
    storage.put_tree(make_tree(tmp_path / "a", x="1"), "k")
    storage.delete(f"k/{MANIFEST}")
    assert storage.list_tree("k") is None
    with pytest.raises(StorageCorrupt, match="not complete"):
        storage.get_tree("k", tmp_path / "back")


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_damage_is_found_and_named(damage: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "store"))
    storage.put_tree(make_tree(tmp_path / "a", x="12345"), "k")
    file = tmp_path / "store/k/x"
    if damage == "flip":
        file.write_text("12346")
    elif damage == "truncate":
        os.truncate(file, 3)
    elif damage == "remove":
        file.unlink()
    else:
        (tmp_path / "store/k" / MANIFEST).write_text("{")
    for read in (lambda: storage.get_tree("k", tmp_path / "back"), lambda: storage.verify_tree("k")):
        with pytest.raises(StorageCorrupt, match=r"k/x|manifest of k"):
            read()


def test_a_writer_that_fails_leaves_the_old_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path / "store"))
    storage.put_tree(make_tree(tmp_path / "a", x="old"), "k")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.put_tree(make_tree(tmp_path / "b", x="new"), "k")
    monkeypatch.undo()
    storage.get_tree("k", tmp_path / "back")
    assert (tmp_path / "back/x").read_text() == "old"


def test_files_are_put_read_and_deleted(storage: Storage, tmp_path: Path) -> None:
    local = tmp_path / "upload"
    local.write_bytes(b"abc")
    storage.put_file(local, "files/f/content")
    assert not local.exists()
    assert storage.size("files/f/content") == 3
    with storage.open("files/f/content") as file:
        assert (file.seek(1), file.read(1), file.seek(0), file.read()) == (1, b"b", 0, b"abc")
    storage.delete("files/f/content")
    assert not storage.exists("files/f/content")
    with pytest.raises(FileNotFoundError):
        storage.open("files/f/content")


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_a_key_that_leaves_the_store_is_refused(storage: Storage, key: str) -> None:
    with pytest.raises(ValueError, match="storage key"):
        storage.exists(key)


def test_only_old_leftovers_are_swept(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "store"))
    old, new = (make_tree(tmp_path / "store" / ASIDE / name, x="1") for name in ("old", "new"))
    os.utime(old, (time.time() - 100_000,) * 2)
    (old.parent / "placed").symlink_to("elsewhere")  # as what is put into its place after it was listed: not there
    storage.sweep()
    assert (old.exists(), new.exists()) == (False, True)


def test_the_manifest_lists_sizes_and_hashes(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "store"))
    storage.put_tree(make_tree(tmp_path / "a", x="abc"), "k")
    (entry,) = json.loads((tmp_path / "store/k" / MANIFEST).read_text())["files"]
    assert entry["bytes"] == 3
    assert entry["sha256"].startswith("ba7816bf")


def test_usage_counts_bytes_and_knows_the_newest(storage: Storage, tmp_path: Path) -> None:
    began = time.time() - 2
    storage.put_tree(make_tree(tmp_path / "a", one="x" * 10, sub__two="y" * 20), "jobs/1/artifacts")
    storage.put_bytes("jobs/1/logs/attempt-1.log", b"12345")
    whole = storage.usage("jobs/1")
    assert whole.bytes == 35 + storage.size("jobs/1/artifacts/MANIFEST.json")
    assert began < whole.newest < time.time() + 2
    assert storage.usage("jobs/1/logs").bytes == storage.usage("jobs/1/logs/attempt-1.log").bytes == 5
    assert storage.usage("jobs/2") == Usage(0, 0.0)


def test_two_processes_that_delete_one_tree_at_once_both_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path / "store"))
    storage.put_tree(make_tree(tmp_path / "a", one="x"), "jobs/1")
    real = Path.rename

    def late(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", real)
        storage.delete("jobs/1")  # the other one is first
        return real(path, target)

    monkeypatch.setattr(Path, "rename", late)
    storage.delete("jobs/1")
    assert not storage.exists("jobs/1")
    assert storage.list_keys(".aside") == []


def test_a_store_whose_disk_is_not_mounted_is_unavailable_and_nothing_is_written_in_its_place(tmp_path: Path) -> None:
    place, disk = tmp_path / "store", tmp_path / "disk"
    storage = Storage(str(place))
    storage.mark()
    storage.put_bytes("jobs/1/a", b"a")
    place.rename(disk)
    for there in (False, True):  # the mount point may stay
        if there:
            place.mkdir()
        for away in (storage, Storage(str(place), known=True)):
            for ask in (away.ping, lambda s=away: s.put_bytes("jobs/1/b", b"b"), lambda s=away: s.exists("jobs/1/a")):
                with pytest.raises(StorageUnavailable, match="is not there"):
                    ask()
    assert list(place.iterdir()) == []
    place.rmdir()
    disk.rename(place)
    for back in (storage, Storage(str(place), known=True)):
        back.ping()
        assert back.open("jobs/1/a").read() == b"a"


def test_a_home_knows_the_storage_it_has_had_until_it_is_told_to_begin_anew(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", storage_url=str(tmp_path / "store"))
    Services.make(settings).storage.put_bytes("jobs/1/a", b"a")
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StorageUnavailable, match="is not there"):
        Services.make(settings).storage.ping()
    (tmp_path / "home" / "seen.txt").unlink()
    Services.make(settings).storage.ping()
