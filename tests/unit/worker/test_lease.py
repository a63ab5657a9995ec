"""The lease of one attempt."""

from __future__ import annotations

from typing import Any, cast

from opensloth.jobs.states import StopIntent
from opensloth.settings import Settings
from worker.lease import Lease


class Ended:
    """Attempts whose end is in the database already."""

    def renew(self, job_id: str, attempt: int) -> tuple[bool, StopIntent | None]:
        """Nobody's any more."""
        return False, None


def test_a_refused_renewal_is_told_once_and_is_the_last() -> None:
    told: list[str] = []
    lease = Lease(cast(Any, Ended()), "ftjob-1", 1, Settings(), lambda intent: None, lambda: told.append("lost"))
    lease.start()
    lease.join(30)
    assert not lease.is_alive()
    assert told == ["lost"]
