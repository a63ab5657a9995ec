"""One random walk: jobs come, are stopped, and parts of the box are killed; reproducible by its seed."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
from sqlalchemy import delete, select

from opensloth.errors import OpenSlothError, Unavailable
from opensloth.events.rows import EventCounterRow, EventRow
from opensloth.jobs.blame import LOST, in_a_row
from opensloth.jobs.reasons import reason
from opensloth.jobs.rows import AttemptRow, CheckpointRow, IdempotencyRow, JobRow
from opensloth.jobs.states import LIVE, TERMINAL
from opensloth.models.rows import ModelRow
from tests.chaos.audit import Findings, audit
from tests.chaos.box import SLOTS, Box
from tests.support.boxes import now_of
from tests.support.jobs import ADMIN, body

LIVE_STATES = [state.value for state in LIVE]
OVER = [state.value for state in TERMINAL]
MOST_JOBS = SLOTS + 2
ROUNDS_BETWEEN_AUDITS = 20
MOST_LOSSES = reason(LOST).limit or 0
PATIENCE_S = 180.0
"""A job that has not got on for so long is lost."""


class Walk:
    """`rounds` rounds with the box of `box`; `real_every`: so often a job is a real training (0: never)."""

    def __init__(self, box: Box, seed: int, real_every: int = 10, real: dict[str, Any] | None = None) -> None:
        self.box = box
        self.random = random.Random(seed)
        self.real_every, self.real = real_every, real
        self.findings = Findings()
        self.kills: dict[str, int] = {}
        self.recoveries: list[float] = []
        self.submitted: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self.jobs = 0
        self.requests = 0
        self.seed = seed

    def run(self, rounds: int, audited: Callable[[int], None]) -> None:
        """`audited` is called after each audit with the rounds so far."""
        for number in range(1, rounds + 1):
            self.round(number)
            if number % ROUNDS_BETWEEN_AUDITS == 0 or number == rounds:
                self.settle()
                audited(number)

    def bad(self) -> str:
        """What was found, in short."""
        return ", ".join(f"{len(lines)} {name}" for name, lines in vars(self.findings).items() if lines) or "all well"

    def round(self, number: int) -> None:
        """Some jobs, a moment, a kill, and the time until what it took down starts again."""
        if self.real_every and self.real and number % self.real_every == 0:
            self.submit(dict(self.real), int(self.real["training_args"]["max_steps"]))
        while len(self.open_jobs()) < self.random.randint(2, MOST_JOBS):
            steps = self.random.randint(20, 150)
            name = f"steps={steps} step_s=0.02 save={self.random.choice([2, 5, 20])}"
            self.submit(body(self.box.services, self.box.dataset, name, max_retries=100), steps)
        self.meddle()
        self.moment()
        victims = self.random.choices(*zip(*self.weights(), strict=True), k=self.random.choice([1, 1, 1, 2]))
        for victim in dict.fromkeys(victims):
            self.kill("trainer" if victim == "worker" and not self.may_kill_the_worker() else victim)

    def may_kill_the_worker(self) -> bool:
        """Whether no job would be given up for it; the worker then stays stopped, so that none becomes such a one."""
        worker = self.box.parts["worker"]
        worker.send(signal.SIGSTOP)
        if not self.ask(self.some_job_is_suspect):
            return True
        worker.send(signal.SIGCONT)
        return False

    def some_job_is_suspect(self) -> bool:
        """Whether the next loss of the worker would be put down to a job: nobody could tell that chance did it."""
        with self.box.services.database.read() as session:
            rows = session.scalars(select(JobRow).where(JobRow.state.in_(LIVE_STATES)))
            return any(in_a_row(session, row, LOST) >= MOST_LOSSES for row in rows)

    def weights(self) -> list[tuple[str, int]]:
        """The parts and how often they are hit."""
        parts = [("worker", 35), ("trainer", 30), ("api", 15), ("valkey", 15)]
        return [*parts, ("postgresql", 15)] if self.box.postgres else parts

    # People

    def submit(self, spec: dict[str, Any], steps: int) -> None:
        """Post a job until it is acknowledged, always under one key, as a client with retries does."""
        self.requests += 1
        headers = {"Idempotency-Key": f"{self.seed}-{self.requests}"}
        answer = self.eventually(lambda: httpx.post(f"{self.box.url}/v1/jobs", json=spec, headers=headers, timeout=10))
        self.submitted[answer["id"]] = steps
        self.jobs += 1

    def eventually(self, request: Callable[[], httpx.Response]) -> dict[str, Any]:
        """The answer, however often the server is away; raises for what is refused."""
        deadline, last = time.monotonic() + PATIENCE_S, ""
        while True:
            try:
                response = request()
                last = f"{response.status_code} {response.text[:200]}"
                if response.status_code < 500:
                    response.raise_for_status()
                    return dict(response.json())
                if response.status_code != 503:
                    self.findings.events.append(f"the API answered {last}")
            except httpx.TransportError as error:
                last = repr(error)
            if time.monotonic() > deadline:
                raise TimeoutError(f"the API did not answer; the last was {last}")
            time.sleep(0.1)

    def meddle(self) -> None:
        """Cancel, pause or resume, as people do."""
        jobs = sorted(self.open_jobs())
        for job_id in jobs:
            if self.state(job_id) == "paused":
                self.act(job_id, "resume")
        draw = self.random.random()
        if not jobs or draw > 0.3:
            return
        job_id = self.random.choice(jobs)
        if draw < 0.1:
            self.cancelled.add(job_id)
            self.act(job_id, "cancel")
        elif draw < 0.2:
            self.act(job_id, "pause")

    def act(self, job_id: str, action: str) -> None:
        """One action; a job may have ended meanwhile, which is no fault."""
        with contextlib.suppress(httpx.HTTPStatusError):
            self.eventually(lambda: httpx.post(f"{self.box.url}/v1/jobs/{job_id}/{action}", timeout=10))

    # Kills

    def moment(self) -> None:
        """Wait for a state that some job is in, or for a while."""
        state = self.random.choice(["starting", "running", "stopping", "running", None])
        deadline = time.monotonic() + (self.random.uniform(0, 2.0) if state is None else 3.0)
        while time.monotonic() < deadline and not (state and state in self.open_jobs().values()):
            time.sleep(0.01)
        if state:
            time.sleep(self.random.uniform(0, 0.3))

    def kill(self, victim: str) -> None:
        """Kill a part, start it again, and wait until what went down with it is on its way again."""
        began = self.now()
        if victim == "trainer":
            processes = sorted(self.box.trainers(), key=lambda process: process.pid)
            if not processes:
                return
            process = self.random.choice(processes)
            hit = [part for part in self.attempts() if any(part in word for word in process.info["cmdline"])]
            with contextlib.suppress(psutil.Error):
                process.kill()
        else:
            hit = list(self.attempts()) if victim == "worker" else []
            self.box.kill(victim)
            time.sleep(self.random.uniform(0, 0.5))
            self.box.start_again(victim)
        self.kills[victim] = self.kills.get(victim, 0) + 1
        for job_id in hit:
            self.await_recovery(job_id, self.attempts().get(job_id, 0), began)

    def await_recovery(self, job_id: str, attempt: int, began: float) -> None:
        """Note how long it took until the job was `starting` again, if it was lost at all."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            events = self.ask(lambda: self.box.services.events.list(job_id, limit=100_000))
            moves = [event for event in events if event.type == "state"]
            with self.box.services.database.read() as session:
                placed = session.execute(
                    select(AttemptRow.placed_at).where(AttemptRow.job_id == job_id, AttemptRow.placed_at > began)
                ).all()
            if placed:
                self.recoveries.append(min(at for (at,) in placed) - began)
                return
            if moves[-1].data["to"] in (*OVER, "paused"):
                return
            time.sleep(0.05)
        self.findings.lost.append(f"{job_id}: not starting again within {PATIENCE_S:.0f} s")

    # Looks into the database, which may be away

    def ask(self, question: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return question()
            except (Unavailable, OpenSlothError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def open_jobs(self) -> dict[str, str]:
        """The jobs that are not over, and their states."""

        def read() -> dict[str, str]:
            with self.box.services.database.read() as session:
                query = select(JobRow.id, JobRow.state).where(JobRow.state.not_in(OVER))
                return dict(session.execute(query).tuples().all())

        return dict(self.ask(read))

    def attempts(self) -> dict[str, int]:
        """The jobs that are live on the host, with their attempt."""

        def read() -> dict[str, int]:
            with self.box.services.database.read() as session:
                query = select(JobRow.id, JobRow.attempt).where(JobRow.state.in_(LIVE_STATES), JobRow.taken_up)
                return dict(session.execute(query).tuples().all())

        return dict(self.ask(read))

    def state(self, job_id: str) -> str:
        return str(self.ask(lambda: self.box.services.jobs.state(job_id, ADMIN)))

    def now(self) -> float:
        return float(self.ask(lambda: now_of(self.box.services)))

    # Audits

    def settle(self) -> None:
        """Let everything end, look whether all is as it must be, and forget it."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and (open_jobs := self.open_jobs()):
            for job_id, state in open_jobs.items():
                if state == "paused":
                    self.act(job_id, "resume")
            time.sleep(0.1)
        while time.monotonic() < deadline and self.box.trainers():
            time.sleep(0.1)
        self.findings.add(self.ask(lambda: audit(self.box, self.submitted, self.cancelled)))
        self.submitted, self.cancelled = {}, set()
        self.ask(self.forget)
        for name in ("alive", "runs"):
            shutil.rmtree(self.box.settings.home / name, ignore_errors=True)
        shutil.rmtree(self.box.folder / "storage" / "jobs", ignore_errors=True)

    def forget(self) -> None:
        """Leave the tables of jobs empty."""
        with self.box.services.database.write() as session:
            for table in (IdempotencyRow, CheckpointRow, AttemptRow, EventRow, EventCounterRow):
                session.execute(delete(table))
            session.execute(delete(ModelRow).where(ModelRow.kind != "base"))
            session.execute(delete(JobRow))
