"""Service and database against a plain model: people, planners and workers that come, go, lag and repeat themselves."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as run_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update

from opensloth.database import db_now
from opensloth.devices.inventory import FoundDevice
from opensloth.devices.rows import DeviceLeaseRow
from opensloth.errors import Conflict
from opensloth.events.rows import EventCounterRow, EventRow
from opensloth.jobs.attempts import AttemptService
from opensloth.jobs.endings import End
from opensloth.jobs.planning import plan_round
from opensloth.jobs.rows import AttemptRow, CheckpointRow, DependencyRow, IdempotencyRow, JobRow
from opensloth.jobs.states import LIVE, TERMINAL, TRANSITIONS, StopIntent
from opensloth.models.rows import ModelRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import ADMIN, add_file, add_model, body

HOSTS = ("north", "south")
SLOTS = 2
STRENGTH = ("drain", "pause", "time_limit", "cancel", "kill")
"""From weak to strong; preempt is as strong as drain."""
STOPPED_AS = {
    "drain": ("queued", "drained"),
    "preempt": ("queued", "preempted"),
    "pause": ("paused", "paused"),
    "time_limit": ("failed", "time_limit"),
    "cancel": ("cancelled", "cancelled"),
    "kill": ("cancelled", "cancelled"),
}
LIVE_STATES = {state.value for state in LIVE}
OVER = {state.value for state in TERMINAL}


def strength(intent: str | None) -> int:
    return -1 if intent is None else STRENGTH.index("drain" if intent == "preempt" else intent)


@dataclass
class Job:
    """What a job must be."""

    id: str
    max_retries: int
    parent: Job | None = None
    state: str = "queued"
    reason: str | None = None
    attempt: int = 0
    intent: str | None = None
    host: str | None = None
    taken_up: bool = False
    expired: bool = False
    retries: int = 0
    losses: int = 0
    """Hosts lost since the newest checkpoint."""
    lost_on: str | None = None
    """The host that its latest attempt was lost with."""
    explained: bool = False
    """A job was given up on its host during its latest attempt."""
    saves: bool = False
    """Its latest attempt has made a checkpoint."""
    saved: int = 0
    """The step of the newest checkpoint."""
    offset: dict[int, int] = field(default_factory=dict)
    """Bytes of records that each attempt has delivered."""
    steps: list[tuple[int, int]] = field(default_factory=list)
    """(attempt, step) of every metric that was delivered."""
    moves: list[tuple[str | None, str]] = field(default_factory=list)

    def move(self, state: str, reason: str | None = None) -> None:
        self.moves.append((self.state, state))
        self.state, self.reason = state, reason
        if state not in LIVE_STATES:
            self.host, self.intent, self.taken_up, self.expired = None, None, False, False

    def lost(self, code: str, others: list[Job]) -> None:
        """The attempt ended without a verdict of its trainer; `others` are all jobs."""
        if self.state == "stopping":
            assert self.intent is not None
            self.move(*STOPPED_AS[self.intent])
            return
        if code != "host_lost":
            self.move("queued", code)
            return
        there = [job for job in others if job.state not in OVER and self.host in (job.host, job.lost_on)]
        as_often = [job for job in there if job.suspicion() >= self.suspicion()]
        if self.suspicion() >= 3 and as_often == [self] and not self.explained:
            for job in there:
                job.explained = job.host is not None
            self.move("failed", "worker_killed")
        else:
            self.losses, self.lost_on = self.suspicion(), self.host
            self.move("queued", code)

    def suspicion(self) -> int:
        """Hosts that it lost, or is about to lose, without a checkpoint."""
        return self.losses + (self.taken_up and not self.saves)

    def failed(self, code: str, retryable: bool) -> None:
        if self.state == "stopping":
            self.lost(code, [])
            return
        self.retries += 1
        again = retryable and self.retries <= self.max_retries
        self.retries -= not again  # what is not tried again is not counted
        self.move("queued" if again else "failed", code)


class World(RuleBasedStateMachine):
    """Rules are what may happen in any order; a worker may act on an attempt that it lost long ago."""

    services: Services
    dataset: str

    def __init__(self) -> None:
        super().__init__()
        self.attempts = AttemptService(
            self.services.database, self.services.events, self.services.publisher, self.services.settings
        )
        self.jobs: list[Job] = []
        self.held: dict[tuple[str, int], str] = {}
        """Every attempt that was ever taken up, and by which host."""
        self.keys = 0

    @initialize()
    def register(self) -> None:
        for host in HOSTS:
            slots = [FoundDevice(f"{host}:cpu{n}", "cpu", n, "slot", 1 << 34) for n in range(SLOTS)]
            self.services.devices.register(host, slots)

    def teardown(self) -> None:
        tables = (DeviceLeaseRow, IdempotencyRow, DependencyRow, CheckpointRow, AttemptRow, EventRow, EventCounterRow)
        with self.services.database.write() as session:
            for table in tables:
                session.execute(delete(table))
            session.execute(delete(ModelRow).where(ModelRow.kind != "base"))
            session.execute(delete(JobRow))

    # People

    @rule(retries=st.integers(0, 2), high=st.booleans(), repeats=st.integers(1, 3), of=st.integers(0, 3))
    def submit(self, retries: int, high: bool, repeats: int, of: int) -> None:
        if len(self.jobs) >= 12:
            return
        parents = [job for job in self.jobs if job.state not in OVER]
        parent = parents[-1] if of == 0 and parents else None
        more: dict[str, Any] = {"depends_on": parent.id} if parent else {}
        spec = body(self.services, self.dataset, max_retries=retries, priority="high" if high else "normal", **more)
        self.keys += 1
        answers = [self.services.jobs.submit(spec, ADMIN, f"key-{self.keys}") for _ in range(repeats)]
        assert [made for _, made in answers] == [True] + [False] * (repeats - 1)
        (job_id,) = {view.id for view, _ in answers}
        job = Job(job_id, retries, parent, state="waiting" if parent else "queued")
        job.moves.append((None, job.state))
        self.jobs.append(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), save=st.booleans())
    def cancel(self, data: st.DataObject, save: bool) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        if job.state in ("succeeded", "failed"):
            with pytest.raises(Conflict):
                self.services.control.cancel(job.id, ADMIN, save=save)
            return
        self.services.control.cancel(job.id, ADMIN, save=save)
        if job.state in LIVE_STATES:
            self._asked(job, "cancel" if save else "kill")
        elif job.state != "cancelled":
            job.move("cancelled", "cancelled")
            self._settle(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        final = job.intent is not None and strength(job.intent) > strength("pause")
        if job.state in OVER or job.state == "waiting" or final:
            with pytest.raises(Conflict):
                self.services.control.pause(job.id, ADMIN)
            return
        self.services.control.pause(job.id, ADMIN)
        if job.state in LIVE_STATES:
            self._asked(job, "pause")
        elif job.state == "queued":
            job.move("paused", "paused")

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        if job.state in OVER or job.state == "stopping":
            with pytest.raises(Conflict):
                self.services.control.resume(job.id, ADMIN)
            return
        self.services.control.resume(job.id, ADMIN)
        if job.state == "paused":
            job.move("queued")

    # Planners

    @rule(planners=st.integers(1, 2))
    def plan(self, planners: int) -> None:
        with self.services.database.write() as session:
            session.execute(update(JobRow).where(JobRow.not_before.is_not(None)).values(not_before=db_now() - 1))
        for _ in range(planners):
            services = self.services
            plan_round(services.database, services.events, services.publisher, services.settings)
        for job in self.jobs:
            row = self._row(job)
            if job.state == "queued" and row.state == "starting":
                job.attempt += 1
                job.move("starting")
                job.host, job.lost_on, job.explained, job.saves = row.host_id, None, False, False
            elif job.state in ("starting", "running") and row.state == "stopping":
                assert row.stop_intent == "preempt"
                job.move("stopping", row.reason)
                job.intent = "preempt"

    # Workers

    @rule(host=st.sampled_from(HOSTS))
    def take_up(self, host: str) -> None:
        taken = {placed.job.id: placed.attempt for placed in self.attempts.take_up(host)}
        waiting = [
            job
            for job in self.jobs
            if job.state in LIVE_STATES and job.host == host and not job.taken_up and not job.expired
        ]
        assert taken == {job.id: job.attempt for job in waiting}
        for job in waiting:
            job.taken_up = True
            self.held[job.id, job.attempt] = host
            self.attempts.started_processes(job.id, job.attempt, [{"pid": 1, "started": 0.0}])

    def _holding(self, data: st.DataObject) -> tuple[Job, int, bool]:
        """A job, an attempt that some worker believes in, and whether it is right."""
        job_id, attempt = data.draw(st.sampled_from(sorted(self.held)))
        (job,) = [job for job in self.jobs if job.id == job_id]
        return job, attempt, job.attempt == attempt and job.state in LIVE_STATES

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        job, attempt, own = self._holding(data)
        kept, intent = self.attempts.renew(job.id, attempt)
        assert kept == own
        if kept:
            assert intent == job.intent
            job.expired = False

    @precondition(lambda self: self.held)
    @rule(data=st.data(), repeats=st.integers(1, 3), count=st.integers(1, 3), saves=st.booleans())
    def train(self, data: st.DataObject, repeats: int, count: int, saves: bool) -> None:
        """Some steps are told; the first batch of an attempt says that it began, each batch may come again."""
        job, attempt, own = self._holding(data)
        start = job.offset.get(attempt, 0)
        first = job.saved + 1 if start == 0 else job.steps[-1][1] + 1 if job.steps else 1
        records: list[dict[str, Any]] = []
        if start == 0:
            records.append({"type": "started", "data": {"step": first, "resumed_step": first - 1}})
        steps = range(first, first + count)
        records += [{"type": "metrics", "data": {"step": step, "metrics": {"loss": float(step)}}} for step in steps]
        if saves:
            key = f"jobs/{job.id}/checkpoints/{steps[-1]}"
            records.append({"type": "checkpoint", "data": {"step": steps[-1], "key": key, "bytes": 1, "save_s": 0.1}})
        for _ in range(repeats):
            assert self.attempts.record(job.id, attempt, records, start, start + 100) == own
        if own:
            job.offset[attempt] = start + 100
            job.steps += [(attempt, step) for step in steps]
            if start == 0 and job.state == "starting":
                job.move("running")
            if saves:
                job.saved, job.losses, job.saves = steps[-1], 0, True

    @precondition(lambda self: self.held)
    @rule(data=st.data(), repeats=st.integers(1, 2), kind=st.sampled_from(["succeeded", "stopped", "nan", "killed"]))
    def finish(self, data: st.DataObject, repeats: int, kind: str) -> None:
        job, attempt, own = self._holding(data)
        if kind == "stopped" and job.state != "stopping" and own:
            return  # nobody has asked it to
        ends = {
            "succeeded": End("succeeded", result={"key": "k", "artifacts": [], "base": "tiny"}),
            "stopped": End("stopped"),
            "nan": End("failed", "nan_loss"),
            "killed": End("failed", "trainer_killed"),
        }
        answers = [self.attempts.end(job.id, attempt, ends[kind]) for _ in range(repeats)]
        if not own:
            assert answers == [None] * repeats
            return
        if kind == "succeeded":
            job.move("succeeded")
        elif kind == "stopped":
            job.lost("drained", [])
        else:
            job.failed("nan_loss" if kind == "nan" else "trainer_killed", kind == "killed")
        assert answers == [job.state] + [None] * (repeats - 1)
        self._settle(job)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), intent=st.sampled_from([StopIntent.DRAIN, StopIntent.TIME_LIMIT]))
    def worker_asks_to_stop(self, data: st.DataObject, intent: StopIntent) -> None:
        job, attempt, own = self._holding(data)
        self.attempts.ask_stop(job.id, attempt, intent, "the worker wants it")
        if own:
            self._asked(job, intent.value, reason=None)

    # Faults

    @precondition(lambda self: any(job.state in LIVE_STATES for job in self.jobs))
    @rule(data=st.data())
    def lease_runs_out(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([job for job in self.jobs if job.state in LIVE_STATES]))
        job.expired = True
        with self.services.database.write() as session:
            session.execute(update(JobRow).where(JobRow.id == job.id).values(lease_until=db_now() - 1))

    @rule(reapers=st.integers(1, 2))
    def reap(self, reapers: int) -> None:
        lost = [job for job in self.jobs if job.expired]
        found = [job_id for _ in range(reapers) for job_id in self.attempts.reap()]
        assert sorted(found) == sorted(job.id for job in lost)
        for job in lost:
            job.lost("host_lost" if job.taken_up else "not_taken_up", self.jobs)
            self._settle(job)

    @rule(host=st.sampled_from(HOSTS))
    def worker_starts_anew(self, host: str) -> None:
        """It finds what the one before it left."""
        left = {job_id: attempt for job_id, attempt, _ in self.attempts.abandon(host)}
        mine = [job for job in self.jobs if job.state in LIVE_STATES and job.host == host and job.taken_up]
        assert left == {job.id: job.attempt for job in mine}
        for job in mine:
            assert self.attempts.end(job.id, job.attempt, End("lost", "host_lost")) is not None
            job.lost("host_lost", self.jobs)
            self._settle(job)

    @rule(host=st.sampled_from(HOSTS), times=st.integers(2, 4))
    def worker_dies_again_and_again(self, host: str, times: int) -> None:
        """Some job takes it down, or somebody kills it."""
        for _ in range(times):
            self.plan(1)
            self.take_up(host)
            self.worker_starts_anew(host)
            self.database_is_as_the_model_says()

    # What must hold

    @invariant()
    def database_is_as_the_model_says(self) -> None:
        with self.services.database.read() as session:
            rows = {row.id: row for row in session.scalars(select(JobRow))}
            leases: dict[str, list[str]] = {}
            for device, job_id, attempt in session.execute(
                select(DeviceLeaseRow.device_id, DeviceLeaseRow.job_id, DeviceLeaseRow.attempt)
            ):
                leases.setdefault(job_id, []).append(device)
                assert attempt == rows[job_id].attempt
            open_attempts = session.execute(
                select(AttemptRow.job_id, AttemptRow.attempt).where(AttemptRow.ended_at.is_(None))
            ).all()
        assert set(rows) == {job.id for job in self.jobs}, "no job is lost and none is made twice"
        for job in self.jobs:
            row = rows[job.id]
            seen = (row.state, row.reason, row.attempt, row.stop_intent, row.retries, row.host_id, row.taken_up)
            assert seen == (job.state, job.reason, job.attempt, job.intent, job.retries, job.host, job.taken_up)
            assert (row.ended_at is not None) == (job.state in OVER)
        live = {job.id for job in self.jobs if job.state in LIVE_STATES}
        assert set(leases) == live, "what runs holds devices, and nothing else does"
        held = [device for devices in leases.values() for device in devices]
        assert len(held) == len(set(held)), "a device has one job"
        assert {job_id for job_id, _ in open_attempts} == live
        assert len(open_attempts) == len(live), "a job has one live attempt"

    @invariant()
    def events_tell_it_all_once(self) -> None:
        for job in self.jobs:
            events = self.services.events.list(job.id, limit=10_000)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert [(e.data["from"], e.data["to"]) for e in events if e.type == "state"] == job.moves
            assert [(e.attempt, e.data["step"]) for e in events if e.type == "metrics"] == job.steps
            assert all(move in ALLOWED for move in job.moves[1:])

    # The model's parts that several rules share

    def _asked(self, job: Job, intent: str, reason: str | None = "") -> None:
        if job.state != "stopping":
            job.move("stopping", job.reason if reason == "" else reason)
            job.intent = intent
        elif strength(intent) > strength(job.intent):
            job.intent = intent

    def _settle(self, ended: Job) -> None:
        if ended.state not in OVER:
            return
        for job in self.jobs:
            if job.parent is ended and job.state == "waiting":
                if ended.state == "succeeded":
                    job.move("queued")
                else:
                    job.move("cancelled" if ended.state == "cancelled" else "failed", "dependency_failed")
                    self._settle(job)

    def _row(self, job: Job) -> JobRow:
        with self.services.database.read() as session:
            return session.get_one(JobRow, job.id)


ALLOWED = {(source.value, target.value) for source, target in TRANSITIONS}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Time passes only where a rule says so."""
    return settings.model_copy(
        update={"lease_s": 1e6, "host_timeout_s": 1e6, "min_run_s": 0.0, "min_free_bytes": 0, "retry_backoff_s": 0.0}
    )


@pytest.fixture
def world(services: Services) -> type[World]:
    add_model(services)
    return type("World", (World,), {"services": services, "dataset": add_file(services)})


def run(world: type[World], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        world,
        settings=run_settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_a_short_walk_finds_service_and_model_alike(world: type[World]) -> None:
    run(world, examples=6, steps=25)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_long_walks_find_service_and_model_alike(world: type[World]) -> None:
    run(world, examples=int(os.environ.get("WALKS", "300")), steps=60)
