"""Which leases were renewed a moment ago, by this host's own clock: the database's may step, as it is set right."""

from __future__ import annotations

import time

from sqlalchemy import select

from opensloth.database import Database
from opensloth.jobs.rows import JobRow
from opensloth.jobs.states import LIVE


class Renewals:
    """What this host has seen of the leases of all hosts."""

    def __init__(self, database: Database, lease_s: float) -> None:
        self._db = database
        self._lease_s = lease_s
        self._seen: dict[tuple[str, int], tuple[float | None, float]] = {}
        """Until when each lease is, and since when that has stood there, by the monotonic clock."""

    def recent(self) -> set[tuple[str, int]]:
        """The attempts (job, attempt) whose lease has not stood still for a lease's time: their trainers may live."""
        with self._db.read() as session:
            live = JobRow.state.in_([state.value for state in LIVE])
            rows = session.execute(select(JobRow.id, JobRow.attempt, JobRow.lease_until).where(live)).all()
        now, before, self._seen = time.monotonic(), self._seen, {}
        for job_id, attempt, until in rows:
            earlier = before.get((job_id, attempt), (None, now))
            self._seen[job_id, attempt] = earlier if earlier[0] == until else (until, now)
        return {attempt for attempt, (_, since) in self._seen.items() if now - since < self._lease_s}
