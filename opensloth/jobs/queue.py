"""What queued jobs are told: their place, what they wait for in words, and when they are expected to start."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import bindparam, select, update

from opensloth.accounts.callers import Caller
from opensloth.database import Database
from opensloth.datasets.rows import DatasetPullRow
from opensloth.errors import Unavailable
from opensloth.jobs.queue_views import QueueEntry, QueueView, time_of
from opensloth.jobs.rows import DependencyRow, JobRow, PullWaitRow
from opensloth.jobs.situation import read_situation
from opensloth.jobs.snapshot import Snapshot
from opensloth.jobs.spec import PRIORITY_NAMES
from opensloth.jobs.states import State
from opensloth.jobs.stored import found_job, views_of
from opensloth.jobs.views import JobView
from opensloth.scheduling.types import QueuedJob
from opensloth.settings import Settings

log = logging.getLogger(__name__)

FRESH_S = 1.0
"""A forecast serves this long."""
EFFORT = 0.1
"""The part of its time that a process may spend on forecasts: a dear one serves longer."""
LIST_PATIENCE_S = 0.05
"""A list of jobs waits for a forecast this long at the most,"""
JOB_PATIENCE_S = 1.0
"""one job that no forecast knows yet this long,"""
QUEUE_PATIENCE_S = 20.0
"""and the queue itself this long."""


class QueueService:
    """Forecasts of the queue, made beside the writers and kept for a moment."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings
        self._lock = threading.Lock()
        self._last: Snapshot | None = None
        self._made_at = 0.0
        self._took_s = 0.0
        self._renewal: threading.Thread | None = None

    # Forecasts

    def snapshot(self) -> Snapshot:
        """A forecast of moments ago; raises Unavailable where there is none."""
        snapshot = self.newest(patience_s=QUEUE_PATIENCE_S)
        if snapshot is None:
            raise Unavailable(
                "the queue is not known at the moment", code="queue_unknown", hint="try again in a moment"
            )
        return snapshot

    def newest(self, newer_than: float = 0.0, patience_s: float = float("inf")) -> Snapshot | None:
        """A forecast of a box seen after `newer_than` (by the database's clock), or within `patience_s` the newest.

        One that has served its time is renewed behind, one that is much too old is waited for as well. None if there
        is none in time; raises nothing: what goes wrong is in the log.
        """
        deadline = time.monotonic() + patience_s
        while True:
            last, age, life = self._last, time.monotonic() - self._made_at, max(FRESH_S, self._took_s / EFFORT)
            good = last is not None and age < 3 * life and last.seen.now >= newer_than
            if good and age < life:
                return last
            renewal = self._renewing()
            left = deadline - time.monotonic()
            if good or left <= 0:
                return last
            renewal.join(min(left, threading.TIMEOUT_MAX))
            if not renewal.is_alive() and self._last is last:
                return last  # it failed; its log says why

    def _renewing(self) -> threading.Thread:
        """The thread that makes a new forecast, started if none is at it."""
        with self._lock:
            if self._renewal is None or not self._renewal.is_alive():
                self._renewal = threading.Thread(target=self._renew, name="forecast", daemon=True)
                self._renewal.start()
            return self._renewal

    def _renew(self) -> None:
        began = time.monotonic()
        try:
            with self._db.read() as session:
                seen = read_situation(session, self._settings)
            made = Snapshot.of(seen)
        except Unavailable as error:
            log.warning("the queue is not played forward: %s", error)
        except Exception:
            log.exception("the queue could not be played forward")
        else:
            self._made_at = time.monotonic()
            self._took_s = self._made_at - began
            self._last = made

    # What jobs show

    def job(self, job_id: str, caller: Caller) -> JobView:
        """One job with what it is told; raises NotFound."""
        with self._db.read() as session:
            (view,) = views_of(session, [found_job(session, job_id, caller)])
        self.annotate([view], caller, thorough=True)
        return view

    def annotate(self, views: Sequence[JobView], caller: Caller, *, thorough: bool = False) -> None:
        """Fill `queue` of the jobs among `views` that are queued or waiting.

        `thorough` waits for a forecast that knows them; otherwise what is not known within moments stays None.
        """
        queued = [view for view in views if view.state == State.QUEUED]
        waiting = [view for view in views if view.state == State.WAITING]
        if not queued and not waiting:
            return
        newest = max((_moment(view.queued_at) for view in queued), default=0.0) if thorough else 0.0
        snapshot = self.newest(newest, JOB_PATIENCE_S if thorough else LIST_PATIENCE_S)
        for view in queued if snapshot else ():
            view.queue = snapshot.view(view.id, caller) if snapshot else None
        if waiting:
            self._annotate_waiting(waiting, snapshot)

    def _annotate_waiting(self, views: Sequence[JobView], snapshot: Snapshot | None) -> None:
        ids = [view.id for view in views]
        reasons: dict[str, list[str]] = {job_id: [] for job_id in ids}
        parents = (
            select(DependencyRow.job_id, JobRow.id, JobRow.state)
            .join(JobRow, JobRow.id == DependencyRow.depends_on)
            .where(DependencyRow.job_id.in_(ids), JobRow.state != State.SUCCEEDED.value)
            .order_by(DependencyRow.depends_on)
        )
        pulls = (
            select(PullWaitRow.job_id, PullWaitRow.field)
            .join(DatasetPullRow, DatasetPullRow.id == PullWaitRow.pull_id)
            .where(PullWaitRow.job_id.in_(ids), DatasetPullRow.status != "ready")
        )
        with self._db.read() as session:
            for job_id, parent, state in session.execute(parents):
                reasons[job_id].append(_of_parent(parent, state, snapshot))
            for job_id, field in session.execute(pulls.order_by(PullWaitRow.field)):
                reasons[job_id].append(f"its {field}, which is fetched from the hub")
        for view in views:
            words = "; ".join(reasons[view.id])
            view.queue = QueueView(position=None, waiting_for=words or "it is about to be queued", expected_start=None)

    # The whole queue

    def entries(self, caller: Caller, *, limit: int = 100, after: int = 0) -> tuple[list[QueueEntry], bool]:
        """The queue in order from the position after `after`, and whether more follow; the jobs of teams that the
        caller does not see have no id, name, owner or words."""
        snapshot = self.snapshot()
        order = sorted(snapshot.expected, key=lambda job_id: snapshot.expected[job_id].position)
        shown = order[after : after + limit]
        with self._db.read() as session:
            rows = {row.id: row for row in session.scalars(select(JobRow).where(JobRow.id.in_(shown)))}
        return [self._entry(snapshot, job_id, rows.get(job_id), caller) for job_id in shown], len(order) > after + limit

    @staticmethod
    def _entry(snapshot: Snapshot, job_id: str, row: JobRow | None, caller: Caller) -> QueueEntry:
        job, expectation = snapshot.jobs[job_id], snapshot.expected[job_id]
        entry = QueueEntry(
            position=expectation.position, devices=job.devices, expected_start=time_of(expectation.start)
        )
        if row is None or not caller.can_see(job.team):
            return entry
        view = snapshot.view(job_id, caller)
        return entry.model_copy(
            update={
                "id": job_id,
                "name": row.name,
                "owner": row.owner,
                "team": row.team,
                "priority": PRIORITY_NAMES[row.priority],
                "waiting_for": view.waiting_for if view else None,
                "queued_at": time_of(row.queued_at),
                "promised_start": time_of(row.promised_start),
            }
        )

    def expected_start_of(self, job: QueuedJob, caller: Caller | None = None) -> QueueView:
        """What `job`, which is not in the queue, would be told if it were submitted now."""
        seen = self.snapshot().seen
        view = Snapshot.of(seen, replace(job, queued_at=seen.now)).view(job.id, caller)
        assert view is not None
        return view

    # Promises

    def promise(self) -> int:
        """Write down the start that is expected now for each job that was not told one yet; returns for how many."""
        new = select(JobRow.id, JobRow.queued_at).where(
            JobRow.state == State.QUEUED.value, JobRow.promised_start.is_(None)
        )
        with self._db.read() as session:
            asked = {job_id: at or 0.0 for job_id, at in session.execute(new)}
        if not asked:
            return 0
        snapshot = self.newest(newer_than=max(asked.values()))
        expected = snapshot.expected if snapshot else {}
        starts = [(job_id, expected[job_id].start) for job_id in asked if job_id in expected]
        return self._write([(job_id, start) for job_id, start in starts if start is not None])

    def _write(self, starts: Iterable[tuple[str, float]]) -> int:
        told = [{"of_job": job_id, "start": start} for job_id, start in starts]
        if told:
            untold = (JobRow.id == bindparam("of_job"), JobRow.promised_start.is_(None))
            with self._db.write() as session:
                session.connection().execute(
                    update(JobRow).where(*untold).values(promised_start=bindparam("start")), told
                )
        return len(told)


def _moment(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _of_parent(parent: str, state: str, snapshot: Snapshot | None) -> str:
    """A job that must succeed first, and how far it is."""
    if snapshot is not None and parent in snapshot.ends:
        return f"{parent}, which is expected to end at {snapshot.clock(snapshot.ends[parent])}"
    if snapshot is not None and parent in snapshot.expected:
        return f"{parent}, which is number {snapshot.expected[parent].position} in the queue"
    return f"{parent}, which is {state}"
