"""Checkpoints between a run's folder and the storage, where each is complete or not there.

Every attempt writes below a key of its own, so that nothing that an attempt still sends after it has lost its lease can
touch what a later one wrote. Only what the database was told of counts; what a checkpoint makes room for, or replaces,
is removed by the worker in the transaction that announces it: until then the older ones are all that there is.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from opensloth.storage import Storage, StorageCorrupt, StorageUnavailable, StoredFile
from opensloth.storage.errors import FULL
from opensloth.training.records import Records
from opensloth.training.run_spec import RunSpec, checkpoint_name, checkpoint_step

PROGRESS_NAME = "opensloth.json"
LEFT_OUT = ("training_args.bin",)
"""A pickle that nothing reads."""


@dataclass
class Progress:
    """What has been trained when a checkpoint is taken, beyond what transformers keeps; tokens without padding."""

    tokens: int = 0
    samples: int = 0
    evaluations_without_gain: int = 0
    """In a row; early stopping counts them."""


@dataclass
class Published:
    """A checkpoint that is complete in the storage; `removed` are the keys of older ones that make room for it."""

    key: str
    files: list[StoredFile]
    save_s: float
    removed: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Its size."""
        return sum(file.bytes for file in self.files)


class Checkpoints:
    """The checkpoints of one run: those that were announced before it, and its own."""

    def __init__(self, spec: RunSpec, storage: Storage) -> None:
        self._spec = spec
        self._storage = storage
        self._known = {checkpoint_step(key): key for key in reversed(spec.checkpoints)}
        """Keys by step."""

    def publish(self, local: Path, step: int, progress: Progress, *, best: int | None = None) -> Published:
        """Moves the checkpoint folder `local`, whole, to its key.

        Beyond `save_total_limit` the oldest ones are to be removed; the one of step `best` stays.
        """
        begin = time.monotonic()
        for name in LEFT_OUT:
            (local / name).unlink(missing_ok=True)
        (local / PROGRESS_NAME).write_text(json.dumps(asdict(progress)))
        key = f"{self._spec.checkpoint_key}/{checkpoint_name(step)}"
        files = self._storage.put_tree(local, key, move=True)
        published = Published(key, files, time.monotonic() - begin)
        self._known[step] = key
        limit = self._spec.training_args.save_total_limit
        if limit is not None:
            for old in sorted(self._known, reverse=True)[limit:]:
                if old != best:
                    published.removed.append(self._known.pop(old))
        return published

    def fetch(self, step: int, local: Path) -> None:
        """Copies the checkpoint of a step into the folder `local`; raises KeyError and StorageCorrupt."""
        self._storage.get_tree(self._known[step], local)

    def fetch_newest(self, records: Records | None) -> Path | None:
        """Copies the checkpoint to resume from into the run's folder, verified; None to start from the beginning.

        One that does not match its manifest, or cannot be read, is passed over for the next older one, which is told in
        the records. Raises StorageUnavailable if one cannot be read and no older one can: what holds it may come back.
        """
        if self._spec.resume_from is None:
            return None
        older = [self._known[step] for step in sorted(self._known, reverse=True) if step < self._spec.resumed_step]
        unreadable: Exception | None = None
        for key in [self._spec.resume_from, *older]:
            local = Path(self._spec.run_dir) / "resume" / key.rpartition("/")[2]
            shutil.rmtree(local, ignore_errors=True)
            try:
                self._storage.get_tree(key, local)
            except StorageCorrupt as error:
                _warn(records, f"checkpoint {key} is passed over: {error.message}")
            except (StorageUnavailable, OSError) as error:
                self._require_storage(error)
                unreadable = unreadable or error
                _warn(records, f"checkpoint {key} is passed over, it cannot be read: {error}")
            else:
                return local
        if unreadable is not None:
            hint = "look at the disk or mount behind it, and who owns it; or submit again to start from the beginning"
            raise StorageUnavailable(f"no checkpoint can be read: {unreadable}", hint=hint) from unreadable
        _warn(records, "no checkpoint can be read; training starts from the beginning")
        return None

    def _require_storage(self, error: StorageUnavailable | OSError) -> None:
        """Raise `error` where it is not of one checkpoint alone: the local disk is full, or the storage is away."""
        if isinstance(error, OSError) and error.errno in FULL:
            raise error
        try:
            self._storage.ping()
        except (StorageUnavailable, OSError):
            raise error from None

    def remove_unannounced(self) -> None:
        """Remove what earlier attempts of this job left without announcing it: whole, half, and of no use.

        Raises StorageUnavailable and OSError for what may not be looked into or taken away.
        """
        parent, _, own = self._spec.checkpoint_key.rpartition("/")
        announced = {*self._spec.checkpoints, *self._known.values()}
        for attempt in self._storage.list_keys(parent):
            if not attempt.startswith("attempt-") or attempt == own:
                continue
            for name in self._storage.list_keys(f"{parent}/{attempt}"):
                if f"{parent}/{attempt}/{name}" not in announced:
                    self._storage.delete(f"{parent}/{attempt}/{name}")


def _warn(records: Records | None, message: str) -> None:
    if records is not None:
        records.log(message, level="warning")


def read_progress(local: Path) -> Progress:
    """What had been trained when the checkpoint in the folder `local` was taken."""
    file = local / PROGRESS_NAME
    return Progress(**json.loads(file.read_text())) if file.exists() else Progress()


def trainer_state(local: Path) -> dict[str, Any]:
    """transformers' state in a checkpoint folder: `global_step`, `max_steps`, `log_history` and more."""
    state: dict[str, Any] = json.loads((local / "trainer_state.json").read_text())
    return state
