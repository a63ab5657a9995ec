"""What exports and evaluations share: each is a job made of the result of another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller, visible_to
from opensloth.database import Database
from opensloth.errors import Conflict
from opensloth.jobs.admission import new_row
from opensloth.jobs.evaluation_spec import EvaluationSpec
from opensloth.jobs.export_spec import ExportSpec
from opensloth.jobs.inputs import hold_parents
from opensloth.jobs.retry import Retry
from opensloth.jobs.rows import JobRow
from opensloth.jobs.service import JobService
from opensloth.jobs.states import TERMINAL, State
from opensloth.jobs.stored import found_job, views_of
from opensloth.jobs.views import JobView
from opensloth.models.choices import ModelChoice
from opensloth.models.registry import ModelRegistry

S = TypeVar("S", ExportSpec, EvaluationSpec)


@dataclass(frozen=True)
class Own:
    """What is a derived job's own, beside its spec and its source."""

    name: str
    """What it is called if its spec says nothing."""
    form: str
    """With `precision`, what tells its needs from those of others; see Assessor.fill_export."""
    precision: str = "16bit"
    dataset_id: str | None = None


class DerivedJobs(ABC, Generic[S]):
    """Accepts and lists the derived jobs of one kind; everything else about them is what it is for any job."""

    kind: ClassVar[str]
    done: ClassVar[str]
    """What happens to the source's result, as "exported"."""
    schema_version: ClassVar[int]

    def __init__(self, database: Database, jobs: JobService, models: ModelRegistry) -> None:
        self._db = database
        self._jobs = jobs
        self._models = models

    @abstractmethod
    def parse(self, body: Any) -> S:
        """The spec that a client posted; raises InvalidInput."""

    @abstractmethod
    def own(self, session: Session, source: JobRow, choice: ModelChoice | None, spec: S, caller: Caller) -> Own:
        """What this kind adds; raises Conflict or InvalidInput where the spec does not fit the source.

        `choice` is the source's result, None as long as it is to come.
        """

    def submit(
        self,
        source_id: str,
        body: Any,
        caller: Caller,
        idempotency_key: str | None = None,
        *,
        retry: Retry | None = None,
    ) -> tuple[JobView, bool]:
        """Accept a job of this kind from the job `source_id`; the second value is False for a repeated idempotency key.

        A source that has not ended is waited for. Raises NotFound, InvalidInput, Conflict where no result will come.
        """

        def insert(session: Session, job_id: str, spec: S) -> JobRow:
            source = self._source(session, source_id, caller)
            depends_on = [] if source.state == State.SUCCEEDED else [source_id]
            choice = None if depends_on else self._models.choices.of(session, source_id, "job", caller)
            own = self.own(session, source, choice, spec, caller)
            row = new_row(
                job_id,
                body,
                spec,
                caller,
                kind=self.kind,
                export_of=source_id,
                name=spec.name.strip() or own.name,
                schema_version=self.schema_version,
                device_count=1,
                max_retries=spec.max_retries,
                dataset_id=own.dataset_id,
                model_id=source_id,
            )
            self._jobs.assessor.fill_export(
                session, row, form=own.form, precision=own.precision, choice=choice, time_limit=spec.time_limit
            )
            self._jobs.admission.add(session, row, depends_on, caller)
            return row

        asked = {f"{self.kind}_of": source_id, "body": body}
        return self._jobs.admission.take(asked, lambda: self.parse(body), insert, caller, idempotency_key, retry)

    def jobs_of(self, source_id: str, caller: Caller) -> list[JobView]:
        """The newest 100 of the job `source_id`, newest first; raises NotFound."""
        self._jobs.state(source_id, caller)
        mine = (JobRow.export_of == source_id, JobRow.kind == self.kind, visible_to(caller, JobRow.team))
        query = select(JobRow).where(*mine).order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(100)
        with self._db.read() as session:
            return views_of(session, session.scalars(query).all())

    def _source(self, session: Session, source_id: str, caller: Caller) -> JobRow:
        hold_parents(session, [source_id])
        source = found_job(session, source_id, caller)
        left = source.state not in TERMINAL or (source.state == State.SUCCEEDED and (source.result or {}).get("model"))
        if not left or not _makes_model(source):
            raise Conflict(
                f"the job {source_id} leaves no model that could be {self.done}",
                code="no_result",
                hint="name a training that succeeds, or its export as merged_16bit",
            )
        return source


def _makes_model(job: JobRow) -> bool:
    """Whether a job of this kind leaves a model when it succeeds."""
    return job.kind == "training" or (job.kind == "export" and job.spec["format"] == "merged_16bit")
