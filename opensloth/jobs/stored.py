"""Stored jobs: found, changed and shown, and who still needs what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import Caller, require_visible
from opensloth.jobs.rows import AttemptRow, CheckpointRow, DependencyRow, JobRow
from opensloth.jobs.states import TERMINAL
from opensloth.jobs.transitions import locked
from opensloth.jobs.views import JobView
from opensloth.models.views import CheckpointPlace

_HINT = "`opensloth jobs` lists them"


def found_job(session: Session, job_id: str, caller: Caller) -> JobRow:
    """The row of a job that the caller sees; raises NotFound."""
    return require_visible(session.get(JobRow, job_id), caller, f"job {job_id!r}", _HINT)


def changeable(session: Session, job_id: str, caller: Caller, action: str, **data: Any) -> JobRow:
    """The job's row, locked, and a note in the audit log that `caller` does `action` (as `job.cancel`) to it.

    Raises NotFound, and NotAllowed unless the caller may change the job.
    """
    row = require_visible(locked(session, job_id), caller, f"job {job_id!r}", _HINT)
    caller.require_change(row.owner, f"the job {row.id}")
    record(session, caller, action, job_id, owner=row.owner, **data)
    return row


def views_of(session: Session, rows: Sequence[JobRow]) -> list[JobView]:
    """Rows as clients see them."""
    ids = [row.id for row in rows]
    dependencies: dict[str, list[str]] = {}
    for job_id, other in session.execute(
        select(DependencyRow.job_id, DependencyRow.depends_on).where(DependencyRow.job_id.in_(ids))
    ):
        dependencies.setdefault(job_id, []).append(other)
    placed = [row.id for row in rows if row.attempt]
    attempts = select(AttemptRow.job_id, AttemptRow.attempt, AttemptRow.device_ids)
    devices = {
        (job_id, attempt): [str(device) for device in used]
        for job_id, attempt, used in (session.execute(attempts.where(AttemptRow.job_id.in_(placed))) if placed else ())
    }
    return [JobView.of(row, dependencies.get(row.id, ()), devices.get((row.id, row.attempt), ())) for row in rows]


def user_of_models(session: Session, names: list[str]) -> str | None:
    """A job that is not over and needs one of these models."""
    over = [state.value for state in TERMINAL]
    adapter = JobRow.spec[("opensloth_config", "pretrained_lora")].as_string()
    needs = JobRow.model_id.in_(names) | adapter.in_(names)
    return session.scalar(select(JobRow.id).where(needs, JobRow.state.not_in(over)).limit(1))


def checkpoint_of(session: Session, job_id: str, step: int) -> CheckpointPlace | None:
    """A job's checkpoint, and the model that the job started from."""
    job, row = session.get(JobRow, job_id), session.get(CheckpointRow, (job_id, step))
    if job is None or row is None:
        return None
    return CheckpointPlace(job.owner, job.team, row.key, job.model_id, row.bytes, row.created_at)


def user_of_file(session: Session, file_id: str) -> str | None:
    """A job that is not over and needs this file."""
    over = [state.value for state in TERMINAL]
    needs = (JobRow.dataset_id == file_id) | (JobRow.eval_dataset_id == file_id)
    return session.scalar(select(JobRow.id).where(needs, JobRow.state.not_in(over)).limit(1))
