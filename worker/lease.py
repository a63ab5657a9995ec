"""Keeps the lease of one attempt, whatever its supervisor is busy with: a slow storage must not cost it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from opensloth.errors import Unavailable
from opensloth.jobs.attempts import AttemptService
from opensloth.jobs.states import StopIntent
from opensloth.settings import Settings
from worker.processes import Ranks

log = logging.getLogger(__name__)

_AGAIN_S = 1.0
"""Between two tries while the database is away; at most the usual interval."""


class Lease(threading.Thread):
    """Renews until it is told to stop or the attempt is not ours any more; the ranks hear of each renewal.

    `on_stop` is called with the stop that somebody asked for, `on_loss` once when a renewal was refused.
    """

    def __init__(
        self,
        attempts: AttemptService,
        job_id: str,
        attempt: int,
        settings: Settings,
        on_stop: Callable[[StopIntent], None],
        on_loss: Callable[[], None],
    ) -> None:
        super().__init__(name=f"lease-{job_id}", daemon=True)
        self._attempts = attempts
        self._job_id, self._attempt = job_id, attempt
        self._settings = settings
        self._on_stop, self._on_loss = on_stop, on_loss
        self._over = threading.Event()
        self._ranks: Ranks | None = None
        self._good_until = time.monotonic() + settings.lease_s
        """It was taken a moment ago; `run` begins with a renewal."""

    def attach(self, ranks: Ranks) -> None:
        """Tell these processes too how long the lease is good for, now and with each renewal."""
        ranks.beat(self._good_until)
        self._ranks = ranks

    def until(self) -> float:
        """Until when it is good, by the monotonic clock."""
        return self._good_until

    def let_go(self) -> None:
        """Renew no more; returns when nothing is under way."""
        self._over.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """The thread's life."""
        pause = 0.0
        while not self._over.wait(pause):
            pause = self._settings.lease_renew_s
            try:
                if not self._renew():
                    return
            except Unavailable:
                # Without a renewal no heartbeat goes out, and the ranks leave by themselves before the lease ends.
                pause = min(pause, _AGAIN_S)
            except Exception:
                log.exception("%s: the lease could not be renewed", self._job_id)
                pause = min(pause, _AGAIN_S)

    def _renew(self) -> bool:
        began = time.monotonic()
        ours, intent = self._attempts.renew(self._job_id, self._attempt)
        if not ours:
            self._on_loss()
            return False
        self._good_until = began + self._settings.lease_s
        if self._ranks is not None:
            self._ranks.beat(self._good_until)
        if intent is not None:
            self._on_stop(intent)
        return True
