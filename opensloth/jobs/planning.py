"""One planning round: look at the box, run the policy, apply what it says under the scheduler's lock."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from opensloth.database import Database, after_commit
from opensloth.events.publisher import Publisher
from opensloth.events.store import EventStore
from opensloth.jobs.rows import JobRow
from opensloth.jobs.situation import Situation, read_situation, still_holds
from opensloth.jobs.states import State, StopIntent
from opensloth.jobs.transitions import Start, start_all, transition
from opensloth.scheduling.planner import plan
from opensloth.scheduling.types import Placement, Plan, Preemption
from opensloth.settings import Settings


def plan_round(database: Database, events: EventStore, publisher: Publisher, settings: Settings) -> int:
    """Place what fits now; returns how many jobs were placed.

    Reading and planning take no lock, so that a long queue holds up no submission. What they found is applied under
    the lock if the devices are still as they were seen; else the round is made again there.
    """
    with database.read() as session:
        if session.scalar(select(JobRow.id).where(JobRow.state == State.QUEUED.value).limit(1)) is None:
            return 0
        seen = read_situation(session, settings)
    found = _plan(seen)
    if not found.placements and not found.preemptions:
        return 0
    with database.scheduler_lock() as session:
        if not still_holds(session, seen, settings):
            seen = read_situation(session, settings)
            found = _plan(seen)
        for preemption in found.preemptions:
            _stop(session, events, publisher, preemption)
        return _start(session, events, publisher, seen, found.placements, settings.lease_s)


def _plan(seen: Situation) -> Plan:
    return plan(seen.queue, seen.devices, seen.running, seen.usage, seen.now, seen.rules)


def _stop(session: Session, events: EventStore, publisher: Publisher, preemption: Preemption) -> None:
    moved = transition(
        session,
        events,
        preemption.job_id,
        State.STOPPING,
        sources=[State.STARTING, State.RUNNING],
        message=f"stopped to a checkpoint for {preemption.in_favour_of}",
        values={"stop_intent": StopIntent.PREEMPT.value},
    )
    row = session.get(JobRow, preemption.job_id)
    if moved and row is not None and row.host_id is not None:
        host = row.host_id
        after_commit(session, lambda: publisher.wake_host(host))


def _start(
    session: Session,
    events: EventStore,
    publisher: Publisher,
    seen: Situation,
    placements: Sequence[Placement],
    lease_s: float,
) -> int:
    if not placements:
        return 0
    jobs = {job.id: job for job in seen.queue}
    starts = [
        Start(
            placement.job_id,
            placement.host_id,
            placement.device_ids,
            None if jobs[placement.job_id].whole else jobs[placement.job_id].memory,
            placement.promised_end,
        )
        for placement in placements
    ]
    started = start_all(session, events, starts, lease_s)
    for host in sorted({start.host_id for start in started}):
        after_commit(session, lambda host=host: publisher.wake_host(host))  # type: ignore[misc]
    return len(started)
