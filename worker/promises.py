"""Writes down what new jobs are told of their start, beside the planning that it must not hold up."""

from __future__ import annotations

import logging
import threading

from opensloth.errors import Unavailable
from opensloth.services import Services

log = logging.getLogger(__name__)


class Promises(threading.Thread):
    """Looks when it is woken after a round, and every few seconds, until `stop` is set."""

    def __init__(self, services: Services, stop: threading.Event) -> None:
        super().__init__(name="promises", daemon=True)
        self._services = services
        self._stop_asked = stop
        self._wake = threading.Event()

    def wake(self) -> None:
        """A round was made: what did not start is told when it will."""
        self._wake.set()

    def run(self) -> None:
        """The thread's life."""
        while not self._stop_asked.is_set():
            self._wake.wait(self._services.settings.poll_s)
            self._wake.clear()
            try:
                self._services.queue.promise()
            except Unavailable as error:
                log.warning("no starts are promised: %s", error)
            except Exception:
                log.exception("the starts of new jobs could not be told")
