"""Trying a job that is over again, as a new job with the same spec."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller
from opensloth.database import Database
from opensloth.errors import Conflict
from opensloth.jobs.evaluations import EvaluationService
from opensloth.jobs.exports import ExportService
from opensloth.jobs.leases import LeaseService
from opensloth.jobs.retry import Retry
from opensloth.jobs.rows import CheckpointRow, JobRow
from opensloth.jobs.service import JobService
from opensloth.jobs.states import TERMINAL, State
from opensloth.jobs.stored import found_job
from opensloth.jobs.views import JobView
from opensloth.storage import Storage


class RetryService:
    """A retry is checked as any submission, with what is there today."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        jobs: JobService,
        exports: ExportService,
        evaluations: EvaluationService,
        leases: LeaseService,
    ) -> None:
        self._db = database
        self._storage = storage
        self._jobs = jobs
        self._exports = exports
        self._evaluations = evaluations
        self._leases = leases

    def retry(
        self, job_id: str, caller: Caller, *, from_checkpoint: bool = False, idempotency_key: str | None = None
    ) -> tuple[JobView, bool]:
        """Submit the spec of a job that is over again, as the caller's; the second value is False for a replay.

        It starts from the beginning, or from the newest complete checkpoint of a job that failed or was cancelled.
        Raises NotFound, Conflict, and whatever a submission raises.
        """
        with self._db.read() as session:
            row = found_job(session, job_id, caller)
            if State(row.state) not in TERMINAL:
                raise Conflict(
                    f"the job is {row.state}, not over",
                    hint=f"`opensloth cancel {job_id}` first, or `opensloth resume {job_id}` if it is paused",
                    code="not_over",
                )
            retry = Retry(job_id, self._step(session, row) if from_checkpoint else None)
        if row.kind == "export":
            return self._exports.submit(row.export_of or "", row.spec, caller, idempotency_key, retry=retry)
        if row.kind == "evaluation":
            return self._evaluations.submit(row.export_of or "", row.spec, caller, idempotency_key, retry=retry)
        if row.kind == "chat":
            hint = "ask the model something: its engine starts by itself"
            raise Conflict("a chat engine is not tried again", hint=hint, code="not_retryable")
        if row.kind == "command":
            return self._leases.submit(row.spec, caller, idempotency_key, retry=retry)
        return self._jobs.submit(row.spec, caller, idempotency_key, retry=retry)

    def _step(self, session: Session, row: JobRow) -> int:
        """The step of the newest checkpoint that is complete in storage."""
        if row.kind != "training" or row.state == State.SUCCEEDED:
            what = "it has succeeded" if row.kind == "training" else f"a job of kind {row.kind} saves none"
            raise Conflict(
                f"there is nothing to go on from: {what}", hint="leave from_checkpoint out", code="no_checkpoint"
            )
        query = select(CheckpointRow).where(CheckpointRow.job_id == row.id).order_by(CheckpointRow.step.desc())
        for checkpoint in session.scalars(query):
            if self._storage.list_tree(checkpoint.key) is not None:
                return checkpoint.step
        raise Conflict(
            "the job left no checkpoint", hint="leave from_checkpoint out to start anew", code="no_checkpoint"
        )
