"""Which engine answers for a model: one that runs, one that waits for a device, or a new one."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller
from opensloth.chat.room import Room, room_for
from opensloth.database import Database
from opensloth.errors import FieldError, InvalidInput, NotFound, Unavailable
from opensloth.jobs.admission import body_digest
from opensloth.jobs.chat_engines import ChatEngineRow
from opensloth.jobs.queue import JOB_PATIENCE_S, QueueService
from opensloth.jobs.reasons import reason
from opensloth.jobs.rows import JobRow
from opensloth.jobs.service import JobService
from opensloth.jobs.snapshot import Snapshot
from opensloth.jobs.spec import PRIORITIES
from opensloth.jobs.states import State
from opensloth.jobs.transitions import transition
from opensloth.models.choices import ModelChoice
from opensloth.models.registry import ModelRegistry
from opensloth.scheduling.room import INFINITY
from opensloth.settings import Settings

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_LIVE = (State.QUEUED.value, State.STARTING.value, State.RUNNING.value)
_BLOCKED = ("devices", "turn", "user_quota", "team_quota", "device_hours")
"""Why an engine waits for more than a moment (`Wait.code`)."""
_PLAIN = {
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "lora_bias": False,
    "use_qalora": False,
    "alora_invocation_tokens": None,
    "arrow_config": None,
}
"""Of an adapter's configuration: what has to be so for it to be two matrices a layer and nothing else."""


@dataclass(frozen=True)
class Served:
    """A model that can be asked: the name that answers show, its base, and the adapter to switch to."""

    model_id: str
    base: ModelChoice
    adapter: str | None = None
    """Storage key; the engine holds the base alone."""
    merged: str | None = None
    """Storage key of an adapter that is not one to switch to; the engine holds the two merged."""
    job_id: str | None = None
    """The job that made it."""

    @property
    def key(self) -> str:
        """What an engine for it holds."""
        held = self.base.storage_key or f"hub:{self.base.hub_id}"
        return held if self.merged is None else f"{held}+{self.merged}"


@dataclass(frozen=True)
class Engine:
    """A running engine and how to reach it."""

    job_id: str
    address: str
    port: int
    token: str
    fingerprint: str | None


@dataclass(frozen=True)
class Coming:
    """An engine that does not answer yet."""

    job_id: str
    state: Literal["queued", "starting"]
    queued_at: float = 0.0
    waits_for: str | None = None
    """In the queue: what it waits for, in words."""
    free_in_s: float | None = None
    """Seconds until other jobs are expected to leave it a device; None where it may have one any moment."""


class _Raced(Exception):
    """Another request has started the engine in the meantime."""


class ChatService:
    """Every method opens its own short transaction; none waits."""

    def __init__(
        self,
        database: Database,
        jobs: JobService,
        models: ModelRegistry,
        queue: QueueService,
        settings: Settings,
    ) -> None:
        self._db = database
        self._jobs = jobs
        self._models = models
        self._queue = queue
        self._settings = settings
        self._waiting: Counter[str] = Counter()
        """Requests of this process that wait for an engine, by its job."""
        self.looks: dict[tuple[str, str, str | None], asyncio.Task[Engine | Coming]] = {}
        """Looks that are under way: requests that wait for the same engine share one."""

    def resolve(self, name: str, caller: Caller) -> Served:
        """What the model `name` (a registered one, an alias, a job, a result, a checkpoint) is served by.

        Raises NotFound (`model_not_found`) for what the caller does not see, Unavailable while it is imported,
        InvalidInput where it cannot be used.
        """
        unknown = f"The model `{name}` does not exist or you do not have access to it."
        missing = NotFound(unknown, code="model_not_found", fields=[FieldError("model", unknown, "model_not_found")])
        try:
            view = self._models.get(name, caller)
        except NotFound:
            raise missing from None
        if view.status == "importing":
            raise Unavailable(f"the model {name!r} is still being imported", code="model_importing")
        with self._db.read() as session:
            choice = self._models.choices.of(session, name, "model", caller)
        if choice.storage_key is None and choice.adapter_key is None:
            raise missing
        model_id = view.base or view.id if view.kind == "alias" else view.id
        if choice.adapter_key is None:
            return Served(model_id, choice, job_id=view.job_id)
        if _is_plain(choice.adapter_lora or {}):
            return Served(model_id, choice, adapter=choice.adapter_key, job_id=view.job_id)
        return Served(model_id, choice, merged=choice.adapter_key, job_id=view.job_id)

    def look(self, served: Served, caller: Caller, awaited: str | None = None) -> Engine | Coming:
        """The engine for `served`, started if there is none; call it again until it is an Engine.

        `awaited` is the job of the last answer: where it failed for good, what it failed of is raised.
        """
        with self._db.read() as session:
            if awaited is not None:
                self._raise_if_failed(session.get(JobRow, awaited), served)
            found = self._present(session, served.key, caller)
        if found is not None:
            return self._with_outlook(found, caller)
        try:
            return self._start(served, caller)
        except (_Raced, IntegrityError):
            with self._db.read() as session:
                again = self._present(session, served.key, caller)
            if again is None:
                raise Unavailable("the engine of this model has just ended; try again", code="engine_lost") from None
            return again

    def _with_outlook(self, found: Engine | Coming, caller: Caller) -> Engine | Coming:
        """An engine in the queue with what it waits for, as far as that is known."""
        if isinstance(found, Engine) or found.state != "queued":
            return found
        snapshot = self._queue.newest(found.queued_at, JOB_PATIENCE_S)
        if snapshot is None or found.job_id not in snapshot.expected:
            return found
        free_in_s = _free_in(snapshot, found.job_id)
        # A moment that is only a guess (four hours for a job of no known length) is none to tell somebody who waits.
        view = snapshot.view(found.job_id, caller, with_times=free_in_s is not None)
        return replace(found, waits_for=view.waiting_for if view else None, free_in_s=free_in_s)

    def wait_for(self, job_id: str) -> None:
        """A request waits for this engine now."""
        self._waiting[job_id] += 1

    def wait_no_more(self, job_id: str, caller: Caller) -> None:
        """It does not any more; an engine that is queued and that nobody waits for leaves the queue without a trace."""
        self._waiting[job_id] -= 1
        if self._waiting[job_id] > 0:
            return
        del self._waiting[job_id]
        with self._db.write() as session:
            text, events = "nobody waits for the engine any more", self._jobs.events
            left = transition(
                session, events, job_id, State.CANCELLED, sources=[State.QUEUED], reason="cancelled", message=text
            )
            if left:
                session.execute(delete(JobRow).where(JobRow.id == job_id, JobRow.attempt == 0))

    @staticmethod
    def _present(session: Session, key: str, caller: Caller) -> Engine | Coming | None:
        """One that runs, whoever started it; else one that starts; else one of the caller's team in the queue."""
        rows = session.execute(
            select(ChatEngineRow, JobRow)
            .join(JobRow, JobRow.id == ChatEngineRow.job_id)
            .where(ChatEngineRow.key == key, JobRow.state.in_(_LIVE))
            .order_by(JobRow.id)
        ).all()
        for engine, job in rows:
            if job.state == State.RUNNING and engine.port and engine.attempt == job.attempt:
                assert engine.address is not None
                assert engine.token is not None
                return Engine(job.id, engine.address, engine.port, engine.token, engine.fingerprint)
        for _, job in rows:
            if job.state != State.QUEUED:
                return Coming(job.id, "starting")
        mine = (job for engine, job in rows if engine.team == caller.team)
        return next((Coming(job.id, "queued", job.queued_at or 0.0) for job in mine), None)

    @staticmethod
    def _raise_if_failed(job: JobRow | None, served: Served) -> None:
        if job is None or job.state != State.FAILED:
            return
        error: Mapping[str, Any] = job.error or {}
        why = reason(str(job.reason))
        if why.retryable:
            return
        text = f"the engine for {served.model_id} could not be started: {error.get('message') or why.message}"
        if why.code == "internal_error":
            raise Unavailable(text, code="engine_failed", hint=f"`opensloth logs {job.id}` says more")
        raise InvalidInput(text, code=why.code, hint=error.get("hint"), fields=[FieldError("model", text, why.code)])

    def _start(self, served: Served, caller: Caller) -> Coming:
        body = {
            "model": served.model_id if served.adapter is None else served.base.base_id,
            "source": served.base.storage_key,
            "hub_id": served.base.hub_id,
            "adapter": served.merged,
            "of_job": served.job_id,
        }

        def insert(session: Session, job_id: str) -> JobRow:
            engine = session.get(ChatEngineRow, (served.key, caller.team), with_for_update=True)
            if engine is not None and session.get_one(JobRow, engine.job_id).state in _LIVE:
                raise _Raced
            room = self._room(session, served)
            row = JobRow(
                id=job_id,
                kind="chat",
                name=f"chat with {body['model']}"[:128],
                owner=caller.owner,
                team=caller.team,
                spec={**body, "kv_tokens": room.kv_tokens},
                schema_version=SCHEMA_VERSION,
                user_metadata={},
                priority=PRIORITIES["low"],
                device_count=1,
                max_retries=0,
                memory_bytes=room.memory_bytes,
                # It may be stopped at any moment, so that it can go before others who wait for more.
                expected_s=self._settings.chat_idle_s,
                model_id=served.model_id if served.adapter is None else served.base.base_id,
            )
            self._jobs.admission.add(session, row, [], caller)
            if engine is None:
                session.add(ChatEngineRow(key=served.key, team=caller.team, job_id=job_id))
            else:
                engine.job_id, engine.attempt, engine.port = job_id, None, None
            session.flush()
            return row

        view, _ = self._jobs.admission.accept(insert, body_digest(body), caller)
        return Coming(view.id, "queued")

    def _room(self, session: Session, served: Served) -> Room:
        return room_for(session, self._jobs.assessor.models, served.base, served.model_id)


def _is_plain(lora: Mapping[str, Any]) -> bool:
    """Whether the adapter is nothing but two matrices a layer."""
    if str(lora.get("peft_type", "LORA")).upper() != "LORA":
        return False
    return json.dumps({name: lora.get(name) or plain for name, plain in _PLAIN.items()}) == json.dumps(_PLAIN)


def _free_in(snapshot: Snapshot, job_id: str) -> float | None:
    """Seconds until a device is expected for the engine, where other jobs hold all of them until then.

    None where nobody knows how long they take; another engine, whose end is never known, gives way after its turn.
    """
    expected, seen = snapshot.expected[job_id], snapshot.seen
    wait = expected.wait
    # Behind other jobs it is the queue played forward that knows, else the running job that is in its way.
    at, giver = (expected.start, expected.freed_by) if wait.code == "turn" else (wait.at, wait.job_id)
    known = {job.job_id for job in seen.running if job.expected_end is not None and not job.stopping}
    known |= {job.id for job in snapshot.jobs.values() if job.longest_s < INFINITY}
    if at is None or (giver is not None and giver not in known) or wait.code not in _BLOCKED:
        return None
    return at - seen.now
