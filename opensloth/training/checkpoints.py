"""Checkpoints between a run's folder and the storage, where each is complete or not there."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from opensloth.storage import Storage, StorageCorrupt, StoredFile
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
    """A checkpoint that is complete in the storage; `removed` are the keys of older ones that made room."""

    key: str
    files: list[StoredFile]
    save_s: float
    removed: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Its size."""
        return sum(file.bytes for file in self.files)


def publish(
    spec: RunSpec, storage: Storage, local: Path, step: int, progress: Progress, *, best: int | None = None
) -> Published:
    """Moves the checkpoint folder `local`, whole, to its key; one that a repeated step left there is replaced.

    Beyond `save_total_limit` the oldest ones are removed, after the new one is there; the one of step `best` stays.
    """
    begin = time.monotonic()
    for name in LEFT_OUT:
        (local / name).unlink(missing_ok=True)
    (local / PROGRESS_NAME).write_text(json.dumps(asdict(progress)))
    key = f"{spec.checkpoint_key}/{checkpoint_name(step)}"
    files = storage.put_tree(local, key, move=True)
    published = Published(key, files, time.monotonic() - begin)
    limit = spec.training_args.save_total_limit
    if limit is not None:
        for old in _keys(spec, storage)[limit:]:
            if checkpoint_step(old) == best:
                continue
            storage.delete(old)
            published.removed.append(old)
    return published


def fetch_newest(spec: RunSpec, storage: Storage, records: Records | None) -> Path | None:
    """Copies the checkpoint to resume from into the run's folder, verified; None to start from the beginning.

    One that does not match its manifest is passed over for the next older one, which is told in the records.
    """
    if spec.resume_from is None:
        return None
    older = [key for key in _keys(spec, storage) if checkpoint_step(key) < spec.resumed_step]
    for key in [spec.resume_from, *older]:
        local = Path(spec.run_dir) / "resume" / key.rpartition("/")[2]
        shutil.rmtree(local, ignore_errors=True)
        try:
            storage.get_tree(key, local)
        except StorageCorrupt as error:
            if records is not None:
                records.log(f"checkpoint {key} is passed over: {error.message}", level="warning")
            continue
        return local
    if records is not None:
        records.log("no checkpoint can be read; training starts from the beginning", level="warning")
    return None


def read_progress(local: Path) -> Progress:
    """What had been trained when the checkpoint in the folder `local` was taken."""
    file = local / PROGRESS_NAME
    return Progress(**json.loads(file.read_text())) if file.exists() else Progress()


def trainer_state(local: Path) -> dict[str, Any]:
    """transformers' state in a checkpoint folder: `global_step`, `max_steps`, `log_history` and more."""
    state: dict[str, Any] = json.loads((local / "trainer_state.json").read_text())
    return state


def _keys(spec: RunSpec, storage: Storage) -> list[str]:
    """Keys of the job's checkpoints, the newest first."""
    names = storage.list_keys(spec.checkpoint_key)
    steps = [name for name in names if name.startswith("step-") and name[5:].isdigit()]
    return [f"{spec.checkpoint_key}/{name}" for name in sorted(steps, reverse=True)]
