"""What people do to a job that is there: stop it, pause it, resume it, and say how urgent it is and what is kept."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from opensloth.accounts.keys import Caller
from opensloth.database import Database, after_commit, now_of
from opensloth.errors import Conflict, NotAllowed, NotYet
from opensloth.events.publisher import Publisher
from opensloth.events.records import Record
from opensloth.jobs.ordering import Place, move
from opensloth.jobs.rows import JobRow
from opensloth.jobs.service import JobService
from opensloth.jobs.spec import PRIORITIES, PRIORITY_NAMES
from opensloth.jobs.states import LIVE, TERMINAL, State, StopIntent, strengthens
from opensloth.jobs.stored import changeable
from opensloth.jobs.transitions import transition
from opensloth.jobs.views import JobView


class ControlService:
    """Each method locks the job's row, so that of two clients at once the second sees what the first did."""

    def __init__(self, database: Database, publisher: Publisher, jobs: JobService) -> None:
        self._db = database
        self._events = jobs.events
        self._publisher = publisher
        self._jobs = jobs

    def cancel(self, job_id: str, caller: Caller, *, save: bool = True) -> JobView:
        """Cancel a job: at once where nothing runs, else by a stop, which saves a checkpoint unless told not to.

        Cancelling a cancelled job changes nothing. Raises NotFound, NotAllowed, Conflict.
        """
        with self._db.write() as session:
            row = changeable(session, job_id, caller, "job.cancel", save=save)
            state = State(row.state)
            text = f"cancelled by {caller.owner}"
            if state in LIVE:
                self._stop(session, row, StopIntent.CANCEL if save else StopIntent.KILL, text)
            elif state in TERMINAL and state is not State.CANCELLED:
                raise Conflict(f"the job has {state} already", hint="only a job that is not over can be cancelled")
            elif state is not State.CANCELLED:
                transition(session, self._events, job_id, State.CANCELLED, reason="cancelled", message=text)
                after_commit(session, self._publisher.wake_planner)
        return self._jobs.get(job_id, caller)

    def pause(self, job_id: str, caller: Caller) -> JobView:
        """Take a job off its devices, to a checkpoint, or out of the queue, until it is resumed.

        Pausing a paused job changes nothing. Raises NotFound, NotAllowed, Conflict.
        """
        with self._db.write() as session:
            row = changeable(session, job_id, caller, "job.pause")
            state, intent = State(row.state), row.stop_intent
            text = f"paused by {caller.owner}"
            if state in TERMINAL:
                raise Conflict(f"the job has {_ended(state)}", hint="only a job that is not over can be paused")
            if state is State.WAITING:
                hint = "pause the jobs that it waits for, or cancel it"
                raise Conflict("the job waits for others and holds nothing", hint=hint, code="not_queued")
            if row.kind == "chat":
                hint = "cancel it; it starts again when somebody asks it something"
                raise Conflict("a chat engine has nothing to pause", hint=hint, code="not_pausable")
            if state in LIVE and row.kind == "command":
                hint = "cancel it and run it again, or let it stop and continue itself"
                raise Conflict("a command saves nothing that it could go on from", hint=hint, code="not_pausable")
            if state is State.STOPPING and intent in (StopIntent.KILL, StopIntent.CANCEL, StopIntent.TIME_LIMIT):
                why = "its time limit" if intent == StopIntent.TIME_LIMIT else "a cancel"
                hint = f"it cannot be paused any more; `opensloth retry {job_id} --from-checkpoint` goes on from there"
                raise Conflict(f"the job is being stopped for {why}", hint=hint, code="stopping")
            if state in LIVE:
                self._stop(session, row, StopIntent.PAUSE, text)
            elif state is State.QUEUED:
                transition(session, self._events, job_id, State.PAUSED, reason="paused", message=text)
                after_commit(session, self._publisher.wake_planner)
        return self._jobs.get(job_id, caller)

    def resume(self, job_id: str, caller: Caller) -> JobView:
        """Queue a paused job again; it goes on from its newest checkpoint, and is as old as if it came now.

        A job that goes on already is left as it is. Raises NotFound, NotAllowed, Conflict while it still stops.
        """
        with self._db.write() as session:
            row = changeable(session, job_id, caller, "job.resume")
            state = State(row.state)
            if state in TERMINAL:
                hint = f"`opensloth retry {job_id}` makes a new job of it"
                raise Conflict(f"the job has {_ended(state)}", hint=hint)
            if state is State.STOPPING:
                raise NotYet(
                    "the job is still stopping: it saves its checkpoint",
                    hint="resume it once its state is `paused`; `opensloth watch` shows when",
                    code="stopping",
                )
            if state is State.PAUSED:
                now = now_of(session)
                values = {"queued_at": now, "not_before": None}
                text = f"resumed by {caller.owner}"
                transition(session, self._events, job_id, State.QUEUED, message=text, values=values)
                after_commit(session, self._publisher.wake_planner)
        return self._jobs.get(job_id, caller)

    def change(self, job_id: str, caller: Caller, *, priority: str | None = None, keep: bool | None = None) -> JobView:
        """Set the priority class (raising it is for admins) and whether retention leaves the job alone."""
        with self._db.write() as session:
            row = changeable(session, job_id, caller, "job.change", priority=priority, keep=keep)
            values: dict[str, Any] = {} if keep is None else {"kept": keep}
            if priority is not None and PRIORITIES[priority] != row.priority:
                self._require_priority(row, PRIORITIES[priority], caller)
                # Its place among the owner's jobs was one in the class that it leaves.
                values |= {"priority": PRIORITIES[priority], "own_rank": 0}
                text = f"priority {priority}, by {caller.owner}; it was {PRIORITY_NAMES[row.priority]}"
                self._events.append(session, job_id, row.attempt, [Record(type="log", message=text)])
                after_commit(session, self._publisher.wake_planner)
            if values:
                session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))
        return self._jobs.get(job_id, caller)

    def move(self, job_id: str, caller: Caller, place: Place) -> JobView:
        """Give a job another place among its owner's jobs of the same class that have not begun.

        Raises Conflict where the job is not among them, InvalidInput where the one to stand before is not.
        """
        # No planner is in the middle of locking the same jobs in another order.
        with self._db.scheduler_lock() as session:
            move(session, changeable(session, job_id, caller, "job.move"), place)
            after_commit(session, self._publisher.wake_planner)
        return self._jobs.get(job_id, caller)

    @staticmethod
    def _require_priority(row: JobRow, rank: int, caller: Caller) -> None:
        if State(row.state) in TERMINAL:
            raise Conflict(f"the job has {_ended(State(row.state))}", hint="a priority is for jobs that are not over")
        if rank > row.priority and not caller.is_admin:
            hint = "lowering it is yours to do; `opensloth move` orders your own jobs"
            raise NotAllowed("only an admin may raise a job's priority", hint=hint)

    def _stop(self, session: Session, row: JobRow, intent: StopIntent, message: str) -> None:
        """Ask the host of a live job to stop it for `intent`; a stop that is as strong already goes on."""
        present = StopIntent(row.stop_intent) if row.stop_intent else None
        if not strengthens(intent, present):
            return
        if row.state == State.STOPPING:
            session.execute(update(JobRow).where(JobRow.id == row.id).values(stop_intent=intent.value))
            self._events.append(session, row.id, row.attempt, [Record(type="log", message=message)])
        else:
            values = {"stop_intent": intent.value}
            transition(session, self._events, row.id, State.STOPPING, reason=row.reason, message=message, values=values)
        host = row.host_id
        if host is not None:
            after_commit(session, lambda: self._publisher.wake_host(host))


def _ended(state: State) -> str:
    return f"{state} already" if state is not State.CANCELLED else "been cancelled"
