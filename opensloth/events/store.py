"""Events in the database: appended with gapless numbers, read as lists and as metric series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from opensloth.database import Database, after_commit, now_of
from opensloth.events.publisher import Publisher
from opensloth.events.records import EventView, Record, finite, rfc3339
from opensloth.events.rows import EventCounterRow, EventRow

AllSeries = list[dict[str, Any]]
"""`[{"name", "points": [{"step", "value", "time"}]}]`."""


class EventStore:
    """Appends events inside the caller's transaction and reads them back."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._db = database
        self._publisher = publisher

    def append(self, session: Session, job_id: str, attempt: int, records: Sequence[Record]) -> int:
        """Number and insert `records`; they go to the live stream after the commit. Returns the last `seq`.

        A caller that also writes the job's row writes that one first: one order of locks, no deadlock.
        """
        if not records:
            return 0
        last = session.scalar(
            update(EventCounterRow)
            .where(EventCounterRow.job_id == job_id)
            .values(last_seq=EventCounterRow.last_seq + len(records))
            .returning(EventCounterRow.last_seq)
        )
        if last is None:
            last = len(records)
            session.execute(insert(EventCounterRow).values(job_id=job_id, last_seq=last))
        return self._insert(session, job_id, attempt, records, last, now_of(session))

    def begin(self, session: Session, job_id: str, record: Record, now: float) -> None:
        """`append` of the first event of a new job, which has no number yet."""
        session.execute(insert(EventCounterRow).values(job_id=job_id, last_seq=1))
        self._insert(session, job_id, 0, [record], 1, now)

    def _insert(
        self, session: Session, job_id: str, attempt: int, records: Sequence[Record], last: int, now: float
    ) -> int:
        rows = [_row(job_id, last - len(records) + 1 + n, attempt, record, now) for n, record in enumerate(records)]
        session.execute(insert(EventRow), rows)
        views = [_view(row) for row in rows]
        after_commit(session, lambda: self._publisher.events(job_id, views))
        return last

    def append_to_each(self, session: Session, records: Mapping[str, tuple[int, Record]]) -> None:
        """`append` for many jobs at once: each gets one record of the attempt beside it.

        A job has its counter since its first event; the jobs' rows are written, and so locked, before.
        """
        if not records:
            return
        counted = session.execute(
            update(EventCounterRow)
            .where(EventCounterRow.job_id.in_(records))
            .values(last_seq=EventCounterRow.last_seq + 1)
            .returning(EventCounterRow.job_id, EventCounterRow.last_seq),
            execution_options={"synchronize_session": False},
        )
        last = dict(counted.tuples().all())
        now = now_of(session)
        rows = [
            _row(job_id, last[job_id], attempt, record, now) for job_id, (attempt, record) in sorted(records.items())
        ]
        session.connection().execute(insert(EventRow), rows)

        def publish() -> None:
            for row in rows:
                self._publisher.events(row["job_id"], [_view(row)])

        after_commit(session, publish)

    def list(
        self, job_id: str, after: int = 0, limit: int = 100, *, newest_first: bool = False, before: int | None = None
    ) -> list[EventView]:
        """Events with `seq` beyond `after` and below `before`, oldest first unless asked otherwise."""
        order = EventRow.seq.desc() if newest_first else EventRow.seq
        query = select(EventRow).where(EventRow.job_id == job_id, EventRow.seq > after).order_by(order).limit(limit)
        if before is not None:
            query = query.where(EventRow.seq < before)
        with self._db.read() as session:
            return [EventView.of(row) for row in session.scalars(query)]

    def newest(self, job_id: str) -> int:
        """The `seq` of a job's last event; 0 if it has none."""
        with self._db.read() as session:
            return session.scalar(select(EventCounterRow.last_seq).where(EventCounterRow.job_id == job_id)) or 0

    def metrics(
        self, job_id: str, resumed: Mapping[int, int], names: Sequence[str] = (), max_points: int | None = None
    ) -> AllSeries:
        """The series `[{"name", "points": [{"step", "value", "time"}]}]` of one uninterrupted run.

        `resumed` gives the step from which each attempt went on: points that an earlier attempt made beyond it are
        left out.
        """
        with self._db.read() as session:
            rows = session.execute(
                select(EventRow.attempt, EventRow.time, EventRow.data)
                .where(EventRow.job_id == job_id, EventRow.type == "metrics")
                .order_by(EventRow.seq)
            ).all()
        series: dict[str, dict[int, dict[str, Any]]] = {}
        for attempt, time, data in rows:
            step = int(data.get("step", 0))
            if any(later > attempt and step > start for later, start in resumed.items()):
                continue
            for name, value in data.get("metrics", {}).items():
                if not names or name in names:
                    series.setdefault(name, {})[step] = {"step": step, "value": value, "time": rfc3339(time)}
        return [
            {"name": name, "points": _downsample([points[step] for step in sorted(points)], max_points)}
            for name, points in sorted(series.items())
        ]


def _row(job_id: str, seq: int, attempt: int, record: Record, now: float) -> dict[str, Any]:
    """The columns of one event."""
    return {
        "job_id": job_id,
        "seq": seq,
        "attempt": attempt,
        "type": record.type,
        "level": record.level,
        "time": now if record.time is None else record.time,
        "message": record.message,
        "data": finite(record.data),
    }


def _view(row: dict[str, Any]) -> EventView:
    return EventView(**{**row, "time": rfc3339(row["time"])})


def _downsample(points: list[dict[str, Any]], most: int | None) -> list[dict[str, Any]]:
    """At most `most` points at even distances, the first and the last among them."""
    if most is None or len(points) <= most:
        return points
    if most == 1:
        return points[-1:]
    last = len(points) - 1
    return [points[round(n * last / (most - 1))] for n in range(most)]
