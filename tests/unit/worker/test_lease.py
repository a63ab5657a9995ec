"""The lease of one attempt."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from opensloth.jobs.states import StopIntent
from opensloth.settings import Settings
from worker import lease as module
from worker.lease import Lease


class Ended:
    """Attempts whose end is in the database already."""

    def renew(self, job_id: str, attempt: int) -> tuple[bool, StopIntent | None]:
        """Nobody's any more."""
        return False, None


@pytest.mark.parametrize(("let_go", "told"), [(True, False), (False, True)])
def test_a_renewal_that_comes_as_the_end_is_written_is_no_loss_to_tell(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, let_go: bool, told: bool
) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 60.0 if let_go else 0.01)
    lost = threading.Event()
    lease = Lease(cast(Any, Ended()), "ftjob-1", 1, Settings(), lambda intent: None, lost.set)
    lease.start()
    assert lost.wait(30)
    if let_go:
        lease.let_go()
    lease.join(30)
    assert ("not ours any more" in caplog.text) == told
