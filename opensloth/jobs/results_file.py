"""The file of step metrics that a training leaves beside its model: a CSV under OpenAI's names."""

from __future__ import annotations

import csv
import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from opensloth.database import Database, now_of
from opensloth.datasets.rows import FileRow
from opensloth.events.store import AllSeries, EventStore
from opensloth.jobs.rows import AttemptRow, JobRow
from opensloth.storage import Storage

PURPOSE = "fine-tune-results"
FILENAME = "step_metrics.csv"

METRIC_NAMES: dict[str, tuple[str, ...]] = {
    "loss": ("train_loss",),
    "mean_token_accuracy": ("train_mean_token_accuracy", "train_accuracy"),
    "eval_loss": ("full_valid_loss", "valid_loss"),
    "eval_mean_token_accuracy": ("full_valid_mean_token_accuracy", "valid_mean_token_accuracy"),
    "reward": ("train_mean_reward",),
    "eval_reward": ("full_valid_mean_reward", "valid_mean_reward"),
}
"""OpenAI's names for what trainers measure. An evaluation here is always over all of the validation data."""
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
"""The columns that are always there, in OpenAI's order; those of further metrics follow."""
_LEFT_OUT = frozenset({"train_mean_token_accuracy", "full_valid_loss", "full_valid_mean_token_accuracy"})
"""The same values under a second name."""


@dataclass(frozen=True)
class ResultsFile:
    """What was stored: the file's id, its size in bytes and its SHA-256 in hex."""

    id: str
    bytes: int
    sha256: str


def named(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics under OpenAI's names; those that it has no name for are left out."""
    return {name: value for key, value in metrics.items() for name in METRIC_NAMES.get(key, ())}


def file_id_of(job_id: str) -> str:
    """The id of a job's results file; there is one for each job, however often its end is written."""
    return f"file-results-{job_id.removeprefix('ftjob-')}"


def store_results(database: Database, events: EventStore, storage: Storage, folder: Path, job_id: str) -> ResultsFile:
    """Write the job's metrics to storage as they are in the database; `folder` is for what is not complete yet.

    Raises OSError where storage cannot be written.
    """
    with database.read() as session:
        resumed = session.execute(
            select(AttemptRow.attempt, AttemptRow.resumed_step).where(AttemptRow.job_id == job_id)
        ).all()
    series = events.metrics(job_id, {attempt: step for attempt, step in resumed if step is not None})
    file_id = file_id_of(job_id)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".csv", newline="", delete=False) as file:
        local = Path(file.name)
        csv.writer(file, lineterminator="\n").writerows(table(series))
    try:
        content = local.read_bytes()
        found = ResultsFile(file_id, len(content), hashlib.sha256(content).hexdigest())
        storage.put_file(local, f"files/{file_id}/content")
    finally:
        local.unlink(missing_ok=True)
    return found


def add_results(session: Session, row: JobRow, stored: ResultsFile) -> None:
    """Register the file as the job owner's."""
    session.merge(
        FileRow(
            id=stored.id,
            owner=row.owner,
            team=row.team,
            filename=FILENAME,
            purpose=PURPOSE,
            bytes=stored.bytes,
            sha256=stored.sha256,
            container="csv",
            created_at=now_of(session),
        )
    )


def table(series: AllSeries) -> Iterable[Sequence[Any]]:
    """The rows of the file, its header first: one for each step with a metric, empty where there is no value."""
    steps: dict[int, dict[str, Any]] = {}
    for entry in series:
        names = [name for name in METRIC_NAMES.get(entry["name"], (entry["name"],)) if name not in _LEFT_OUT]
        for point in entry["points"]:
            steps.setdefault(point["step"], {}).update(dict.fromkeys(names, point["value"]))
    more = sorted({name for values in steps.values() for name in values} - set(COLUMNS))
    yield [*COLUMNS, *more]
    for step in sorted(steps):
        values = {"step": step, **steps[step]}
        yield ["" if values.get(name) is None else values[name] for name in (*COLUMNS, *more)]
