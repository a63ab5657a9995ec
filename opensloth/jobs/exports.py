"""Exports: jobs that turn the result of another job into another form."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller, require_visible, visible_to
from opensloth.accounts.secrets import SecretService
from opensloth.database import Database
from opensloth.errors import Conflict, FieldError, InvalidInput, NotAllowed
from opensloth.jobs.export_spec import SCHEMA_VERSION, ExportSpec, parse_export_spec
from opensloth.jobs.inputs import hold_parents
from opensloth.jobs.retry import Retry
from opensloth.jobs.rows import JobRow
from opensloth.jobs.service import JobService, body_digest
from opensloth.jobs.spec import PRIORITIES
from opensloth.jobs.states import TERMINAL, State
from opensloth.jobs.views import JobView
from opensloth.models.registry import ModelRegistry


class ExportService:
    """Accepts and lists exports; everything else about them is what it is for any job."""

    def __init__(self, database: Database, jobs: JobService, models: ModelRegistry, secrets: SecretService) -> None:
        self._db = database
        self._jobs = jobs
        self._models = models
        self._secrets = secrets

    def submit(
        self,
        source_id: str,
        body: Any,
        caller: Caller,
        idempotency_key: str | None = None,
        *,
        retry: Retry | None = None,
    ) -> tuple[JobView, bool]:
        """Accept an export of the job `source_id`; the second value is False where the idempotency key had made it.

        One that has not ended yet is waited for. Raises NotFound, Conflict where there will be no result, InvalidInput.
        """
        asked = {"export_of": source_id, "body": body}
        digest = body_digest(asked if retry is None else retry.identify(asked))
        if idempotency_key is not None and (earlier := self._jobs.earlier(caller, idempotency_key, digest)):
            return earlier, False
        spec = parse_export_spec(body)
        if spec.priority == "urgent" and not caller.is_admin:
            raise NotAllowed("only an admin may submit urgent jobs", hint="use priority high, normal or low")

        def insert(session: Session, job_id: str) -> JobRow:
            source = self._source(session, source_id, spec, caller)
            if spec.push_to_hub is not None:
                self._secrets.require(session, caller.owner, spec.push_to_hub.secret, "push_to_hub.secret")
            depends_on = [] if source.state == State.SUCCEEDED else [source_id]
            row = JobRow(
                id=job_id,
                kind="export",
                export_of=source_id,
                name=spec.name.strip() or f"{source.name[:110]} {spec.form}",
                owner=caller.owner,
                team=caller.team,
                spec=dict(body),
                schema_version=SCHEMA_VERSION,
                user_metadata=dict(spec.metadata),
                priority=PRIORITIES[spec.priority],
                device_count=1,
                time_limit_s=spec.time_limit,
                max_retries=spec.max_retries,
                model_id=source_id,
            )
            choice = None if depends_on else self._models.choices.of(session, source_id, "job", caller)
            self._jobs.assessor.fill_export(
                session,
                row,
                form=spec.format,
                precision=spec.quantization or "16bit",
                choice=choice,
                time_limit=spec.time_limit,
            )
            self._jobs.add(session, row, depends_on, caller)
            if retry is not None:
                retry.apply(session, job_id)
            return row

        return self._jobs.accept(insert, digest, caller, idempotency_key)

    def list(self, source_id: str, caller: Caller) -> list[JobView]:
        """The exports of a job, newest first; raises NotFound."""
        self._jobs.state(source_id, caller)
        with self._db.read() as session:
            rows = session.scalars(
                select(JobRow)
                .where(JobRow.export_of == source_id, JobRow.kind == "export", visible_to(caller, JobRow.team))
                .order_by(JobRow.created_at.desc(), JobRow.id.desc())
                .limit(100)
            ).all()
            return self._jobs.views(session, rows)

    def _source(self, session: Session, source_id: str, spec: ExportSpec, caller: Caller) -> JobRow:
        hold_parents(session, [source_id])
        found = session.get(JobRow, source_id)
        source = require_visible(found, caller, f"job {source_id!r}", "`opensloth jobs` lists them")
        if source.state not in TERMINAL:
            return source
        if source.state != State.SUCCEEDED or not (source.result or {}).get("model"):
            raise Conflict(
                f"the job {source_id} left no model that could be exported",
                code="no_result",
                hint="only a job that succeeded has one",
            )
        choice = self._models.choices.of(session, source_id, "job", caller)
        if spec.format == "adapter" and choice.adapter_key is None:
            raise InvalidInput(
                "the result is no adapter",
                fields=[FieldError("format", 'the job trained the whole model; use "merged_16bit" or "gguf"')],
            )
        return source
