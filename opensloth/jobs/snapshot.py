"""The queue played forward from one moment, and what of it each caller may read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from opensloth.accounts.callers import Caller
from opensloth.jobs.queue_views import QueueView, time_of
from opensloth.jobs.situation import Situation
from opensloth.scheduling.fairness import expected_end
from opensloth.scheduling.forecast import Expectation, expected_starts
from opensloth.scheduling.types import QueuedJob
from opensloth.scheduling.words import in_words

PLAYED = 100_000
"""Devices and running jobs times rounds of planning that a forecast may play: under two seconds."""
OTHERS = "another team's job"


NO_HOST = "a worker: none is in service at the moment"
"""What jobs wait for where nothing could run them."""


@dataclass(frozen=True)
class Snapshot:
    """A forecast, and the box that it was made from."""

    seen: Situation
    expected: dict[str, Expectation]
    jobs: dict[str, QueuedJob]
    team_of: dict[str, str]
    ends: dict[str, float]
    """When each running job is expected to end."""

    @classmethod
    def of(cls, seen: Situation, extra: QueuedJob | None = None) -> Snapshot:
        """Plays the queue forward; with an `extra` job in it until that one has started."""
        queue = seen.queue if extra is None else [*seen.queue, extra]
        rounds = max(20, PLAYED // max(1, len(seen.devices) + len(seen.running)))
        expected = expected_starts(
            queue,
            seen.devices,
            seen.running,
            seen.usage,
            seen.now,
            seen.rules,
            asked=() if extra is None else {extra.id},
            rounds=rounds,
        )
        teams = {job.id: job.team for job in queue} | {job.job_id: job.team for job in seen.running}
        ends = {job.job_id: expected_end(job, seen.now, seen.rules) for job in seen.running}
        return cls(seen, expected, {job.id: job for job in queue}, teams, ends)

    def view(self, job_id: str, caller: Caller | None, *, with_times: bool = True) -> QueueView | None:
        """What `caller` may read of a queued job, without moments where asked so; None if it was not queued then."""
        job, expectation = self.jobs.get(job_id), self.expected.get(job_id)
        if job is None or expectation is None:
            return None
        if not with_times:
            expectation = replace(expectation, start=None, wait=replace(expectation.wait, at=None))
        told = self._without_others(expectation, caller)
        return QueueView(
            position=expectation.position,
            waiting_for=in_words(job, told, self.clock, self.seen.noun) if self.seen.devices else NO_HOST,
            expected_start=time_of(expectation.start),
        )

    def clock(self, moment: float) -> str:
        """A moment as people read it, in UTC; with the day where it is not today."""
        at, today = datetime.fromtimestamp(moment, UTC), datetime.fromtimestamp(self.seen.now, UTC).date()
        return at.strftime("%H:%M UTC" if at.date() == today else "%H:%M UTC on %d %B")

    def _without_others(self, expectation: Expectation, caller: Caller | None) -> Expectation:
        """The same without the ids of jobs that the caller does not see."""
        wait = expectation.wait
        return replace(
            expectation,
            freed_by=self._named(expectation.freed_by, caller),
            wait=replace(wait, job_id=self._named(wait.job_id, caller)),
        )

    def _named(self, job_id: str | None, caller: Caller | None) -> str | None:
        if job_id is None or caller is None or caller.can_see(self.team_of.get(job_id)):
            return job_id
        return OTHERS
