"""Submitting and reading jobs, for every interface; control.py stops and changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, String, cast, select, tuple_
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller, visible_to
from opensloth.database import Database, now_of
from opensloth.datasets.pulls import PullService
from opensloth.datasets.report import warnings
from opensloth.datasets.service import FileService
from opensloth.errors import FieldError, InvalidInput
from opensloth.events.publisher import Publisher
from opensloth.events.records import Record
from opensloth.events.store import AllSeries, EventStore
from opensloth.jobs.admission import Admission, body_digest, new_row
from opensloth.jobs.assessment import Assessor
from opensloth.jobs.inputs import resolve_inputs, size_of
from opensloth.jobs.queue import QueueService
from opensloth.jobs.retry import Retry
from opensloth.jobs.rows import AttemptRow, CheckpointRow, IdempotencyRow, JobRow
from opensloth.jobs.spec import SCHEMA_VERSION, JobSpec, parse_job_spec
from opensloth.jobs.states import TERMINAL, State
from opensloth.jobs.stored import found_job, views_of
from opensloth.jobs.views import CheckpointView, JobView
from opensloth.models.registry import ModelRegistry
from opensloth.rewards import RewardPolicy

Checkpoints = list[CheckpointView]


class JobService:
    """The jobs of the service; every method opens its own short transaction."""

    def __init__(
        self,
        database: Database,
        files: FileService,
        pulls: PullService,
        models: ModelRegistry,
        events: EventStore,
        publisher: Publisher,
        rewards: RewardPolicy,
        queue: QueueService,
        assessor: Assessor,
    ) -> None:
        self.admission = Admission(database, files, events, publisher, queue)
        self.assessor = assessor
        self.events = events
        self._db = database
        self._queue = queue
        self._pulls = pulls
        self._models = models
        self._rewards = rewards

    # Submission

    def submit(
        self,
        body: Any,
        caller: Caller,
        idempotency_key: str | None = None,
        *,
        retry: Retry | None = None,
        request: dict[str, Any] | None = None,
        client: str | None = None,
    ) -> tuple[JobView, bool]:
        """Accept a job; the second value is False where the idempotency key had made it before.

        `request` is the body in OpenAI's shape that `body` was made from, if it was; the job keeps it. `client` is by
        whose name `made_from` finds it. Raises InvalidInput with a FieldError for each thing that is wrong.
        """

        def insert(session: Session, job_id: str, spec: JobSpec) -> JobRow:
            inputs = resolve_inputs(session, spec, caller, self._pulls, self._models, self._rewards)
            row = new_row(
                job_id,
                body,
                spec,
                caller,
                name=spec.name,
                schema_version=SCHEMA_VERSION,
                resolved=inputs.resolved,
                device_count=max(1, spec.resources.gpus),
                max_retries=spec.max_retries,
                dataset_id=inputs.data.files.get("dataset"),
                eval_dataset_id=inputs.data.files.get("eval_dataset"),
                model_id=spec.opensloth_config.fast_model_args.model_name,
            )
            if request is not None:
                row.request = request
            self.assessor.fill(session, row, spec, inputs.foreseen)
            self.admission.add(session, row, inputs.depends_on, caller, inputs.data.pulls)
            if request is not None:
                self._warn(session, row)
            if client is not None and idempotency_key is None:
                key, digest = f"{_of_client(client)}{job_id}", body_digest(request)
                made_at = row.created_at
                session.add(
                    IdempotencyRow(owner=caller.owner, key=key, body_sha256=digest, job_id=job_id, created_at=made_at)
                )
            return row

        posted = body if request is None else request
        return self.admission.take(posted, lambda: parse_job_spec(body), insert, caller, idempotency_key, retry)

    def _warn(self, session: Session, row: JobRow) -> None:
        """Say in the job's events what is doubtful about its data: OpenAI's clients see no report on a file."""
        size = size_of(session, row.dataset_id)
        found = warnings(size.rows) if size is not None else []
        self.events.append(session, row.id, 0, [Record(type="log", level="warning", message=text) for text in found])

    def made_from(
        self, request: dict[str, Any], caller: Caller, within_s: float, client: str | None, known: Mapping[str, bool]
    ) -> JobView | None:
        """The newest job that `client` made from this very body so lately, that is not over, and that it does not know.

        A client that had no name yet can have made those alone that nobody else did by a name or key. `known` says of
        jobs that it may have got whether it surely has.
        """
        over = [state.value for state in TERMINAL]
        keys = select(IdempotencyRow.job_id).where(IdempotencyRow.owner == caller.owner)
        if client is None:
            mine: ColumnElement[bool] = JobRow.id.not_in(keys)
        else:
            own = keys.where(IdempotencyRow.key.startswith(_of_client(client), autoescape=True))
            mine = JobRow.id.in_(own) | JobRow.id.in_([job_id for job_id, surely in known.items() if not surely])
        with self._db.read() as session:
            since = JobRow.created_at > now_of(session) - within_s
            query = select(JobRow).where(JobRow.owner == caller.owner, since, mine, JobRow.state.not_in(over))
            rows = session.scalars(query.order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(200))
            found = next((row.id for row in rows if row.request == request and not known.get(row.id)), None)
        return self.get(found, caller) if found else None

    # Reading

    def get(self, job_id: str, caller: Caller) -> JobView:
        """One job; raises NotFound."""
        return self._queue.job(job_id, caller)

    def state(self, job_id: str, caller: Caller) -> State:
        """The present state of a job that the caller sees; raises NotFound."""
        with self._db.read() as session:
            return State(found_job(session, job_id, caller).state)

    def list(
        self,
        caller: Caller,
        *,
        states: Sequence[str] = (),
        owner: str | None = None,
        metadata: Mapping[str, str] | None = None,
        without_metadata: bool = False,
        kind: str | None = None,
        limit: int = 20,
        after: str | None = None,
    ) -> tuple[list[JobView], bool]:
        """Jobs that the caller sees, newest first, and whether more follow; `metadata` pairs must all match."""
        seen = visible_to(caller, JobRow.team)
        query = select(JobRow).where(seen).order_by(JobRow.created_at.desc(), JobRow.id.desc())
        if unknown := [name for name in states if name not in set(State)]:
            known = ", ".join(State)
            raise InvalidInput(
                "the filter is wrong",
                fields=[FieldError("state", f"there is no state {unknown[0]!r}; there are: {known}")],
            )
        if states:
            query = query.where(JobRow.state.in_(states))
        if owner is not None:
            query = query.where(JobRow.owner == owner)
        if without_metadata:
            query = query.where(cast(JobRow.user_metadata, String) == "{}")
        if kind is not None:
            query = query.where(JobRow.kind == kind)
        for key, value in (metadata or {}).items():
            query = query.where(JobRow.user_metadata[key].as_string() == value)
        with self._db.read() as session:
            if after is not None:
                last = session.get(JobRow, after)
                if last is None or not caller.can_see(last.team):
                    raise InvalidInput(
                        "the page cannot be found", fields=[FieldError("after", f"there is no job {after!r}")]
                    )
                query = query.where(tuple_(JobRow.created_at, JobRow.id) < tuple_(last.created_at, last.id))
            rows = session.scalars(query.limit(limit + 1)).all()
            views = views_of(session, rows[:limit])
        self._queue.annotate(views, caller)
        return views, len(rows) > limit

    def checkpoints(self, job_id: str, caller: Caller) -> Checkpoints:
        """The complete checkpoints of a job, newest first."""
        with self._db.read() as session:
            found_job(session, job_id, caller)
            rows = session.scalars(
                select(CheckpointRow).where(CheckpointRow.job_id == job_id).order_by(CheckpointRow.step.desc())
            )
            return [CheckpointView.of(row) for row in rows]

    def metrics(
        self, job_id: str, caller: Caller, names: Sequence[str] = (), max_points: int | None = None
    ) -> AllSeries:
        """The job's metric series, as of one uninterrupted run."""
        with self._db.read() as session:
            found_job(session, job_id, caller)
            resumed = session.execute(
                select(AttemptRow.attempt, AttemptRow.resumed_step).where(AttemptRow.job_id == job_id)
            ).all()
        steps = {attempt: step for attempt, step in resumed if step is not None}
        return self.events.metrics(job_id, steps, names, max_points)


def _of_client(client: str) -> str:
    """How the keys begin under which the jobs of a client without keys of its own are kept."""
    return f"client {client} "
