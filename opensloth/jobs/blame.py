"""Which job took a worker down: one that was there each time, when no other was there as often."""

from __future__ import annotations

import hashlib

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from opensloth.jobs.rows import AttemptRow, CheckpointRow, JobRow
from opensloth.jobs.states import LIVE, TERMINAL

LOST, GIVEN_UP = "host_lost", "worker_killed"


def in_a_row(session: Session, row: JobRow, outcome: str) -> int:
    """How many attempts ended so since the newest checkpoint was made, the present one with them if it is live.

    Of lost hosts only those count that the job can have brought down: it had processes there.
    """
    newest = session.scalar(select(func.max(CheckpointRow.attempt)).where(CheckpointRow.job_id == row.id)) or 0
    attempts = session.execute(
        select(AttemptRow.outcome, AttemptRow.ended_at, AttemptRow.processes).where(
            AttemptRow.job_id == row.id, AttemptRow.attempt > newest
        )
    )
    return sum(
        (ended is None or ended_as == outcome) and (outcome != LOST or bool(processes))
        for ended_as, ended, processes in attempts
    )


def suspects(session: Session, row: JobRow) -> list[str]:
    """The jobs that were lost with the host of `row`, this one among them, as often without a checkpoint or more.

    Those that wait for their next turn count too, and one that was given up for this very loss: it was enough to
    explain it. In an order that is another one each time.
    """
    mine = in_a_row(session, row, LOST)
    began = session.scalar(
        select(AttemptRow.placed_at).where(AttemptRow.job_id == row.id, AttemptRow.attempt == row.attempt)
    )
    attempt = aliased(AttemptRow)
    given_up = session.scalars(
        select(attempt.job_id).where(
            attempt.host_id == row.host_id, attempt.outcome == GIVEN_UP, attempt.ended_at >= (began or 0.0)
        )
    )
    others = session.scalars(
        select(JobRow)
        .join(attempt, (attempt.job_id == JobRow.id) & (attempt.attempt == JobRow.attempt))
        .where(
            JobRow.id != row.id,
            JobRow.state.not_in([state.value for state in TERMINAL]),
            attempt.host_id == row.host_id,
            JobRow.state.in_([state.value for state in LIVE]) | (attempt.outcome == LOST),
        )
    )
    found = [row.id, *given_up, *(other.id for other in others if in_a_row(session, other, LOST) >= mine)]
    return sorted(found, key=lambda job_id: hashlib.sha256(f"{job_id} {mine}".encode()).digest())
