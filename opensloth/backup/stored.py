"""The storage out of a backup: trees whole or not at all, and what is there already stays."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from opensloth.backup.archive import Reader
from opensloth.backup.make import STORED
from opensloth.storage import Storage, StorageCorrupt
from opensloth.storage.logs import LogWriter
from opensloth.storage.manifest import MANIFEST

_LOG = re.compile(r"(jobs/[^/]+/logs/[^/]+\.log)(?:/\d+)?")


def put_back(reader: Reader, storage: Storage, scratch: Path) -> tuple[int, list[str]]:
    """Store what the backup holds and the storage does not; returns how many files, and the trees left out.

    A tree is left out where it was not complete when the backup was made, as a checkpoint that was being removed.
    """
    keys = {file.name.removeprefix(STORED): file for file in reader.files if file.name.startswith(STORED)}
    roots = [key.removesuffix(f"/{MANIFEST}") for key in keys if key.endswith(f"/{MANIFEST}")]
    count, left_out, done = 0, [], set()
    for root in sorted(roots):
        members = [key for key in keys if key.startswith(f"{root}/")]
        done.update(members)
        try:
            count += _tree(reader, storage, root, members, scratch / "tree")
        except StorageCorrupt:
            left_out.append(root)
    logs: dict[str, list[str]] = {}
    for key in sorted(keys.keys() - done):
        found = _LOG.fullmatch(key)
        if found:
            logs.setdefault(found[1], []).append(key)
        elif not storage.exists(key) or storage.size(key) != keys[key].bytes:
            local = scratch / "file"
            reader.get(f"{STORED}{key}", local)
            storage.put_file(local, key)
            count += 1
    for key, parts in logs.items():
        count += _log(reader, storage, key, parts, scratch)
    return count, left_out


def _tree(reader: Reader, storage: Storage, root: str, members: list[str], local: Path) -> int:
    """Raises StorageCorrupt where the backup has not all of it."""
    shutil.rmtree(local, ignore_errors=True)
    for key in members:
        target = local / "t" / key.removeprefix(f"{root}/")
        if not target.resolve().is_relative_to(local.resolve()):
            raise StorageCorrupt(f"{key} leaves its tree")
        target.parent.mkdir(parents=True, exist_ok=True)
        reader.get(f"{STORED}{key}", target)
    wanted = Storage(str(local)).verify_tree("t")
    if storage.list_tree(root) == wanted:
        return 0
    storage.put_tree(local / "t", root, move=True)
    return len(wanted)


def _log(reader: Reader, storage: Storage, key: str, parts: list[str], scratch: Path) -> int:
    """A log is a file in a folder and parts in an object store; either becomes what this storage has."""
    if storage.exists(key):
        return 0
    whole = scratch / "log"
    with whole.open("wb") as file:
        for part in parts:
            reader.get(f"{STORED}{part}", scratch / "part")
            with (scratch / "part").open("rb") as piece:
                shutil.copyfileobj(piece, file, 1 << 20)
    LogWriter(storage, key).ship(whole)
    return 1
