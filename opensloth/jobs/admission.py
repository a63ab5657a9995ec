"""Taking jobs in: each is checked against its owner's limits and made once for each idempotency key."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from opensloth.accounts.audit import record
from opensloth.accounts.callers import Caller
from opensloth.accounts.rows import TeamRow, UserRow
from opensloth.database import Database, after_commit, now_of
from opensloth.datasets.service import FileService
from opensloth.errors import FieldError, IdempotencyMismatch, NotAllowed, QuotaExceeded
from opensloth.events.publisher import Publisher
from opensloth.events.records import Record
from opensloth.events.store import EventStore
from opensloth.jobs.limits import require_allowed
from opensloth.jobs.queue import QueueService
from opensloth.jobs.quotas import require_room
from opensloth.jobs.retry import Retry
from opensloth.jobs.rows import DependencyRow, IdempotencyRow, JobRow, PullWaitRow
from opensloth.jobs.spec import PRIORITIES, Priority
from opensloth.jobs.states import State
from opensloth.jobs.stored import views_of
from opensloth.jobs.views import JobView

Insert = Callable[[Session, str], JobRow]
EMPTY: Mapping[str, str] = MappingProxyType({})


class AnySpec(Protocol):
    """What the spec of a job of any kind says."""

    @property
    def priority(self) -> Priority:
        """Class in the queue."""

    @property
    def time_limit(self) -> int | None:
        """Seconds on devices."""

    @property
    def metadata(self) -> dict[str, str]:
        """The owner's own pairs of text."""


S = TypeVar("S", bound=AnySpec)


class Admission:
    """The way in for jobs of every kind."""

    def __init__(
        self, database: Database, files: FileService, events: EventStore, publisher: Publisher, queue: QueueService
    ) -> None:
        self._db = database
        self._files = files
        self._events = events
        self._publisher = publisher
        self._queue = queue

    def take(
        self,
        posted: Any,
        parse: Callable[[], S],
        insert: Callable[[Session, str, S], JobRow],
        caller: Caller,
        idempotency_key: str | None,
        retry: Retry | None,
    ) -> tuple[JobView, bool]:
        """Make the job that was `posted`; the second value is False where the idempotency key had made it before.

        `insert(session, id, spec)` makes its job. Raises what `parse` and `insert` do, and NotAllowed.
        """
        digest = body_digest(posted if retry is None else retry.identify(posted))
        if idempotency_key is not None and (earlier := self.earlier(caller, idempotency_key, digest)):
            return earlier, False
        spec = parse()
        if spec.priority == "urgent" and not caller.is_admin:
            raise NotAllowed("only an admin may submit urgent jobs", hint="use priority high, normal or low")

        def complete(session: Session, job_id: str) -> JobRow:
            row = insert(session, job_id, spec)
            if retry is not None:
                retry.apply(session, job_id)
            return row

        return self.accept(complete, digest, caller, idempotency_key)

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
                view = views_of(session, [row])[0]
                after_commit(session, self._publisher.wake_planner)
        except (IntegrityError, QuotaExceeded):
            # Another request with the same key was a moment earlier: its job is the answer, also where it took the
            # last place that its owner has.
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
        return self._queue.job(row.job_id, caller)

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
        self._events.begin(session, row.id, Record(type="state", message=text, data=data), now)
        record(session, caller, "job.submit", row.id, name=row.name, kind=row.kind)


def new_row(job_id: str, body: Mapping[str, Any], spec: AnySpec, caller: Caller, **own: Any) -> JobRow:
    """The row of a new job with what every spec says; `own` is the rest of its columns."""
    return JobRow(
        id=job_id,
        owner=caller.owner,
        team=caller.team,
        spec=dict(body),
        user_metadata=dict(spec.metadata),
        priority=PRIORITIES[spec.priority],
        time_limit_s=spec.time_limit,
        **own,
    )


def body_digest(body: Any) -> str:
    """What tells one body from another under the same idempotency key."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()
