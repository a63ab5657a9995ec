"""Submitting and reading jobs, for every interface; control.py stops and changes them."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import String, cast, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import Caller, require_visible, visible_to
from opensloth.accounts.rows import TeamRow, UserRow
from opensloth.database import Database, after_commit, now_of
from opensloth.datasets.pulls import PullService
from opensloth.datasets.service import FileService
from opensloth.errors import FieldError, IdempotencyMismatch, InvalidInput, NotAllowed
from opensloth.events.publisher import Publisher
from opensloth.events.records import Record
from opensloth.events.store import AllSeries, EventStore
from opensloth.jobs.assessment import Assessor
from opensloth.jobs.inputs import Inputs, resolve_inputs
from opensloth.jobs.limits import require_allowed
from opensloth.jobs.queue import QueueService
from opensloth.jobs.quotas import require_room
from opensloth.jobs.retry import Retry
from opensloth.jobs.rows import AttemptRow, CheckpointRow, DependencyRow, IdempotencyRow, JobRow, PullWaitRow
from opensloth.jobs.spec import PRIORITIES, SCHEMA_VERSION, JobSpec, parse_job_spec
from opensloth.jobs.states import TERMINAL, State
from opensloth.jobs.transitions import locked
from opensloth.jobs.views import CheckpointView, JobView
from opensloth.models.registry import ModelRegistry
from opensloth.models.views import CheckpointPlace
from opensloth.rewards import RewardPolicy

Views = list[JobView]
Checkpoints = list[CheckpointView]
Insert = Callable[[Session, str], JobRow]
EMPTY: Mapping[str, str] = MappingProxyType({})


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
        self._db = database
        self._queue = queue
        self._files = files
        self._pulls = pulls
        self._models = models
        self.events = events
        self._publisher = publisher
        self._rewards = rewards
        self.assessor = assessor

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
        posted = body if request is None else request
        digest = body_digest(posted if retry is None else retry.identify(posted))
        if idempotency_key is not None and (earlier := self.earlier(caller, idempotency_key, digest)):
            return earlier, False
        spec = parse_job_spec(body)
        if spec.priority == "urgent" and not caller.is_admin:
            raise NotAllowed("only an admin may submit urgent jobs", hint="use priority high, normal or low")

        def insert(session: Session, job_id: str) -> JobRow:
            inputs = resolve_inputs(session, spec, caller, self._pulls, self._models, self._rewards)
            row = self._insert(session, job_id, spec, inputs, body, caller)
            row.request = request
            if retry is not None:
                retry.apply(session, job_id)
            if client is not None and idempotency_key is None:
                key, made_at = f"{_of_client(client)}{job_id}", row.created_at
                session.add(
                    IdempotencyRow(owner=caller.owner, key=key, body_sha256=digest, job_id=job_id, created_at=made_at)
                )
            return row

        return self.accept(insert, digest, caller, idempotency_key)

    def accept(
        self, insert: Insert, digest: str, caller: Caller, idempotency_key: str | None = None
    ) -> tuple[JobView, bool]:
        """Make a job by `insert(session, id)`, once for each idempotency key; `digest` is that of the body."""
        self._files.require_room()
        job_id = f"ftjob-{secrets.token_hex(12)}"
        try:
            with self._db.write() as session:
                row = insert(session, job_id)
                if idempotency_key is not None:
                    session.add(
                        IdempotencyRow(
                            owner=caller.owner,
                            key=idempotency_key,
                            body_sha256=digest,
                            job_id=job_id,
                            created_at=now_of(session),
                        )
                    )
                    session.flush()
                view = self.views(session, [row])[0]
                after_commit(session, self._publisher.wake_planner)
        except IntegrityError:
            # Another request with the same key was a moment earlier: its job is the answer.
            if idempotency_key is None or not (earlier := self.earlier(caller, idempotency_key, digest)):
                raise
            return earlier, False
        return view, True

    def earlier(self, caller: Caller, key: str, digest: str) -> JobView | None:
        """The job that this key has made; raises IdempotencyMismatch for another body."""
        with self._db.read() as session:
            row = session.get(IdempotencyRow, (caller.owner, key))
        if row is None:
            return None
        if row.body_sha256 != digest:
            raise IdempotencyMismatch(
                f"this Idempotency-Key was used for {row.job_id} with another body",
                hint="use a new key for a new job",
                fields=[FieldError("Idempotency-Key", "was used with another body")],
            )
        return self.get(row.job_id, caller)

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
            mine = JobRow.id.not_in(keys)
        else:
            own = keys.where(IdempotencyRow.key.startswith(_of_client(client), autoescape=True))
            mine = JobRow.id.in_(own) | JobRow.id.in_([job_id for job_id, surely in known.items() if not surely])
        with self._db.read() as session:
            since = JobRow.created_at > now_of(session) - within_s
            query = select(JobRow).where(JobRow.owner == caller.owner, since, mine, JobRow.state.not_in(over))
            rows = session.scalars(query.order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(200))
            found = next((row.id for row in rows if row.request == request and not known.get(row.id)), None)
        return self.get(found, caller) if found else None

    def _insert(
        self, session: Session, job_id: str, spec: JobSpec, inputs: Inputs, body: Mapping[str, Any], caller: Caller
    ) -> JobRow:
        row = JobRow(
            id=job_id,
            name=spec.name,
            owner=caller.owner,
            team=caller.team,
            spec=dict(body),
            schema_version=SCHEMA_VERSION,
            resolved=inputs.resolved,
            user_metadata=dict(spec.metadata),
            priority=PRIORITIES[spec.priority],
            device_count=max(1, spec.resources.gpus),
            time_limit_s=spec.time_limit,
            max_retries=spec.max_retries,
            dataset_id=inputs.data.files.get("dataset"),
            eval_dataset_id=inputs.data.files.get("eval_dataset"),
            model_id=spec.opensloth_config.fast_model_args.model_name,
        )
        self.assessor.fill(session, row, spec, inputs.foreseen)
        self.add(session, row, inputs.depends_on, caller, inputs.data.pulls)
        return row

    def add(
        self,
        session: Session,
        row: JobRow,
        depends_on: Sequence[str],
        caller: Caller,
        pulls: Mapping[str, str] = EMPTY,
    ) -> None:
        """Insert a new job: queued, or waiting for the jobs in `depends_on` and for the `pulls` of its datasets."""
        account = session.get(UserRow, row.owner), session.get(TeamRow, row.team)
        require_allowed(row, *account)
        require_room(session, *account)
        now = now_of(session)
        state = State.WAITING if depends_on or pulls else State.QUEUED
        row.state, row.created_at = state.value, now
        row.queued_at = now if state is State.QUEUED else None
        session.add(row)
        session.flush()
        session.add_all(DependencyRow(job_id=row.id, depends_on=other) for other in depends_on)
        session.add_all(PullWaitRow(job_id=row.id, field=field, pull_id=pull) for field, pull in pulls.items())
        waits = [*depends_on, *(f"{row.spec[field]}, which is fetched from the hub" for field in pulls)]
        text = f"the job waits for {' and '.join(waits)}" if waits else "the job is queued"
        data = {"from": None, "to": state.value, "reason": None}
        self.events.begin(session, row.id, Record(type="state", message=text, data=data), now)
        record(session, caller, "job.submit", row.id, name=row.name, kind=row.kind)

    # Reading

    def get(self, job_id: str, caller: Caller) -> JobView:
        """One job; raises NotFound."""
        with self._db.read() as session:
            view = self.views(session, [_found(session.get(JobRow, job_id), job_id, caller)])[0]
        self._queue.annotate([view], caller, thorough=True)
        return view

    def state(self, job_id: str, caller: Caller) -> State:
        """The present state of a job that the caller sees; raises NotFound."""
        with self._db.read() as session:
            return State(_found(session.get(JobRow, job_id), job_id, caller).state)

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
            views = self.views(session, rows[:limit])
        self._queue.annotate(views, caller)
        return views, len(rows) > limit

    def views(self, session: Session, rows: Sequence[JobRow]) -> Views:
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
            for job_id, attempt, used in (
                session.execute(attempts.where(AttemptRow.job_id.in_(placed))) if placed else ()
            )
        }
        return [JobView.of(row, dependencies.get(row.id, ()), devices.get((row.id, row.attempt), ())) for row in rows]

    def checkpoints(self, job_id: str, caller: Caller) -> Checkpoints:
        """The complete checkpoints of a job, newest first."""
        with self._db.read() as session:
            _found(session.get(JobRow, job_id), job_id, caller)
            rows = session.scalars(
                select(CheckpointRow).where(CheckpointRow.job_id == job_id).order_by(CheckpointRow.step.desc())
            )
            return [CheckpointView.of(row) for row in rows]

    def metrics(
        self, job_id: str, caller: Caller, names: Sequence[str] = (), max_points: int | None = None
    ) -> AllSeries:
        """The job's metric series, as of one uninterrupted run."""
        with self._db.read() as session:
            _found(session.get(JobRow, job_id), job_id, caller)
            resumed = session.execute(
                select(AttemptRow.attempt, AttemptRow.resumed_step).where(AttemptRow.job_id == job_id)
            ).all()
        steps = {attempt: step for attempt, step in resumed if step is not None}
        return self.events.metrics(job_id, steps, names, max_points)


def _of_client(client: str) -> str:
    """How the keys begin under which the jobs of a client without keys of its own are kept."""
    return f"client {client} "


def body_digest(body: Any) -> str:
    """What tells one body from another under the same idempotency key."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()


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


def changeable(session: Session, job_id: str, caller: Caller, action: str, **data: Any) -> JobRow:
    """The job's row, locked, and a note in the audit log that `caller` does `action` (as `job.cancel`) to it.

    Raises NotFound, and NotAllowed unless the caller may change the job.
    """
    row = _found(locked(session, job_id), job_id, caller)
    caller.require_change(row.owner, f"the job {row.id}")
    record(session, caller, action, job_id, owner=row.owner, **data)
    return row


def _found(row: JobRow | None, job_id: str, caller: Caller) -> JobRow:
    return require_visible(row, caller, f"job {job_id!r}", "`opensloth jobs` lists them")
