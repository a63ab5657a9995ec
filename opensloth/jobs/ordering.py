"""The order among one's own jobs: ranks that the policy reads before age."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from opensloth.errors import Conflict, FieldError, InvalidInput
from opensloth.jobs.rows import JobRow
from opensloth.jobs.states import State

ORDERED = (State.WAITING, State.QUEUED, State.PAUSED)
"""States of a job whose place among its owner's jobs still matters."""


@dataclass(frozen=True)
class Place:
    """Where to: before another job, or to one end."""

    before: str | None = None
    to: Literal["front", "back"] | None = None


def move(session: Session, row: JobRow, place: Place) -> None:
    """Put `row` to `place` by numbering its owner's jobs of its class anew.

    The ranks end below 0, which a new job has: it stands behind those that were ordered by hand.
    """
    if State(row.state) not in ORDERED:
        raise Conflict(
            f"the job is {row.state}", hint="only jobs that have not begun have a place in the queue", code="not_queued"
        )
    order = _order(session, row)
    order.remove(row.id)
    if place.before is None:
        order.insert(0 if place.to == "front" else len(order), row.id)
    else:
        order.insert(_index(order, row, place.before), row.id)
    ranks = {job_id: n - len(order) for n, job_id in enumerate(order)}
    present = select(JobRow.id, JobRow.own_rank).where(JobRow.id.in_(order))
    for job_id, rank in session.execute(present).all():
        if rank != ranks[job_id]:
            session.execute(update(JobRow).where(JobRow.id == job_id).values(own_rank=ranks[job_id]))


def _order(session: Session, row: JobRow) -> list[str]:
    """The owner's jobs of this class that have not begun, in their present order, locked."""
    return list(
        session.scalars(
            select(JobRow.id)
            .where(
                JobRow.owner == row.owner,
                JobRow.priority == row.priority,
                JobRow.state.in_([state.value for state in ORDERED]),
            )
            .order_by(JobRow.own_rank, func.coalesce(JobRow.queued_at, JobRow.created_at), JobRow.id)
            .with_for_update()
        )
    )


def _index(order: list[str], row: JobRow, before: str) -> int:
    if before == row.id:
        raise _wrong("a job cannot stand before itself")
    if before not in order:
        raise _wrong(f"{before} is not a job of {row.owner}'s with the same priority that has not begun")
    return order.index(before)


def _wrong(message: str) -> InvalidInput:
    return InvalidInput("the job cannot be moved there", fields=[FieldError("before", message)])
