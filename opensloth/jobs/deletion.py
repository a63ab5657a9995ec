"""Deleting a job with all that it left, once nobody needs it."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, aliased

from opensloth.accounts.callers import Caller
from opensloth.database import Database
from opensloth.datasets.rows import FileRow
from opensloth.errors import Conflict
from opensloth.jobs.results_file import file_id_of
from opensloth.jobs.rows import CheckpointRow, DependencyRow, JobRow
from opensloth.jobs.states import TERMINAL, State
from opensloth.jobs.stored import changeable, user_of_models
from opensloth.models.rows import ModelRow
from opensloth.storage.deletions import Deletions

_OVER = [state.value for state in TERMINAL]


class DeletionService:
    """A job's rows go in one transaction, and its files after it, however often somebody is killed in between."""

    def __init__(self, database: Database, deletions: Deletions) -> None:
        self._db = database
        self._deletions = deletions

    def delete(self, job_id: str, caller: Caller) -> None:
        """Remove a job that is over: its events, checkpoints, logs, and result with the model.

        Raises NotFound, NotAllowed, and Conflict while it is not over or something needs what it left.
        """
        with self._db.write() as session:
            row = changeable(session, job_id, caller, "job.delete")
            if State(row.state) not in TERMINAL:
                raise Conflict(
                    f"the job is {row.state}",
                    hint=f"`opensloth cancel {job_id}` first; only a job that is over can be deleted",
                    code="not_over",
                )
            user = user_of_job(session, job_id) or user_of_checkpoints(session, job_id)
            if user is not None:
                hint = "wait for its end, cancel it, or delete it first"
                raise Conflict(f"{user} needs the job {job_id}", hint=hint, code="in_use")
            forget_checkpoints(session, job_id)
            session.execute(delete(ModelRow).where(ModelRow.job_id == job_id))
            session.execute(delete(DependencyRow).where(DependencyRow.depends_on == job_id))
            session.execute(delete(JobRow).where(JobRow.id == job_id))
            files = session.scalars(delete(FileRow).where(FileRow.id == file_id_of(job_id)).returning(FileRow.id))
            self._deletions.forget(session, [f"jobs/{job_id}", *(f"files/{file_id}" for file_id in files)])


def user_of_job(session: Session, job_id: str) -> str | None:
    """What needs a job or its result, in words: a job that is not over, or a result that is an adapter of its model."""
    models = list(session.scalars(select(ModelRow.id).where(ModelRow.job_id == job_id)))
    waits = (
        select(DependencyRow.job_id)
        .join(JobRow, JobRow.id == DependencyRow.job_id)
        .where(DependencyRow.depends_on == job_id, JobRow.state.not_in(_OVER))
        .limit(1)
    )
    checkpoint = f":{job_id.removeprefix('ftjob-')}:ckpt-step-"
    starts = select(JobRow.id).where(JobRow.model_id.contains(checkpoint, autoescape=True), JobRow.state.not_in(_OVER))
    user = user_of_models(session, [job_id, *models]) or session.scalar(waits) or session.scalar(starts.limit(1))
    if user is not None:
        return f"the job {user}"
    made_from_it = select(ModelRow.id).where(ModelRow.base_id.in_(models), ModelRow.id.not_in(models)).limit(1)
    result = session.scalar(made_from_it) if models else None
    return f"the model {result}" if result else None


def user_of_checkpoints(session: Session, job_id: str) -> str | None:
    """A job that is not over and goes on from a checkpoint of this one, in words."""
    own, other = aliased(CheckpointRow), aliased(CheckpointRow)
    # A retry goes on from the checkpoints of the job that it retries, where they are.
    user = session.scalar(
        select(other.job_id)
        .join(own, own.key == other.key)
        .join(JobRow, JobRow.id == other.job_id)
        .where(own.job_id == job_id, other.job_id != job_id, JobRow.state.not_in(_OVER))
        .limit(1)
    )
    return f"the job {user}" if user else None


def forget_checkpoints(session: Session, job_id: str) -> None:
    """Delete the rows of a job's own checkpoints, those too by which retries refer to them."""
    mine = CheckpointRow.key.startswith(f"jobs/{job_id}/checkpoints/", autoescape=True)
    keys = session.scalars(select(CheckpointRow.key).where(CheckpointRow.job_id == job_id, mine)).all()
    session.execute(delete(CheckpointRow).where(CheckpointRow.key.in_(keys)))
