"""Devices at once by user and team: who is at the limit waits for the own jobs, and no others wait for that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from opensloth.scheduling.types import Account, QueuedJob, Running, Usage, Wait


class Quotas:
    """Counts what each user and team holds while a round goes on.

    A job that is over a limit reserves in it as the head of the queue does in the box: later ones of the same
    user or team take what it needs only if they give it back in time.
    """

    def __init__(
        self, usage: Usage, running: Sequence[Running], end_of: Callable[[Running], float], now: float
    ) -> None:
        self._now = now
        self._ends: dict[tuple[str, str], list[tuple[float, int, str]]] = defaultdict(list)
        self._limits = {("user", name): account for name, account in usage.users.items() if _limited(account)}
        self._limits |= {("team", name): account for name, account in usage.teams.items() if _limited(account)}
        self._held: dict[tuple[str, str], int] = defaultdict(int)
        self._reserved: dict[tuple[str, str], tuple[float, int]] = {}
        self._waits: dict[tuple[str, str, int], Wait] = {}
        self.any = bool(self._limits)
        if self.any:
            for job in running:
                self._count(job.owner, job.team, len(job.device_ids), end_of(job), job.job_id)

    def wait(self, job: QueuedJob) -> Wait | None:
        """Why the job may not start as far as quotas go."""
        for scope in (("user", job.owner), ("team", job.team)):
            account = self._limits.get(scope)
            if account is None:
                continue
            if account.device_s_left is not None and account.device_s_left <= 0:
                return self._memo(scope[0], "device_hours", job, next_month(self._now))
            if account.max_devices is not None and not self._allows(scope, account.max_devices, job):
                return self._memo(scope[0], f"{scope[0]}_quota", job)
        return None

    def take(self, job: QueuedJob, end: float) -> None:
        """Counts a placement."""
        if self.any:
            self._count(job.owner, job.team, job.devices, end, job.id)

    def _count(self, owner: str, team: str, devices: int, end: float, job_id: str) -> None:
        for scope in (("user", owner), ("team", team)):
            if scope in self._limits:
                self._held[scope] += devices
                self._ends[scope].append((end, devices, job_id))
                start, spare = self._reserved.get(scope, (float("inf"), 0))
                if end > start:
                    self._reserved[scope] = (start, spare - devices)

    def _allows(self, scope: tuple[str, str], limit: int, job: QueuedJob) -> bool:
        room = limit - self._held[scope]
        if job.devices > room:
            if scope not in self._reserved:
                self._reserved[scope] = self._earliest(scope, limit, job.devices)
            return False
        start, spare = self._reserved.get(scope, (float("inf"), 0))
        return self._now + job.longest_s <= start or job.devices <= spare

    def _earliest(self, scope: tuple[str, str], limit: int, needs: int) -> tuple[float, int]:
        """When `needs` devices of the quota will be free, and how many beside them."""
        room = limit - self._held[scope]
        for end, devices, _ in sorted(self._ends[scope]):
            room += devices
            if room >= needs:
                return end, room - needs
        return float("inf"), 0

    def _memo(self, kind: str, code: str, job: QueuedJob, at: float | None = None) -> Wait:
        return self._waits.setdefault((kind, code, job.devices), Wait(code, job.devices, at=at))


def next_month(now: float) -> float:
    """When the calendar month (UTC) after that of `now` begins, in seconds since 1970."""
    first = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1).timestamp()


def _limited(account: Account) -> bool:
    return account.max_devices is not None or account.device_s_left is not None
