"""What a worker tidies up beside the jobs: unfinished deletions, what is too old, scratch of jobs that are over."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time

from opensloth.database import now_of
from opensloth.errors import Unavailable
from opensloth.jobs.rows import JobRow
from opensloth.jobs.states import TERMINAL
from opensloth.schema import WrongSchema, is_newer
from opensloth.services import Services

log = logging.getLogger(__name__)

DELETIONS_EVERY_S = 60.0
OLD_EVERY_S = 3600.0
RUN_KEPT_S = 86_400.0
"""How long the folder of a failed attempt stays on its host for whoever wants to look."""


class Housekeeping(threading.Thread):
    """Goes on until `stop` is set; what fails is done again the next time."""

    def __init__(self, services: Services, stop: threading.Event) -> None:
        super().__init__(name="housekeeping", daemon=True)
        self._services = services
        self._stop_asked = stop
        self._tidied = float("-inf")

    def run(self) -> None:
        """A round each minute."""
        while True:
            try:
                self.look()
            except Unavailable as error:
                log.warning("tidying up waits: %s", error)
            except Exception:
                log.exception("tidying up failed")
            if self._stop_asked.wait(DELETIONS_EVERY_S):
                return

    def look(self) -> None:
        """One round."""
        if self._is_outgrown():
            return
        self._services.deletions.redo(DELETIONS_EVERY_S)
        self._services.files.expire()
        self._services.uploads.expire()
        if time.monotonic() - self._tidied < OLD_EVERY_S:
            return
        self._tidied = time.monotonic()
        self._services.storage.sweep()
        expired = self._services.retention.expire()
        if expired:
            log.info("%d things in storage were older than the settings keep them", expired)
        self.sweep_runs()

    def _is_outgrown(self) -> bool:
        """Whether this release cannot use the database any more: then the worker stops its jobs and goes."""
        try:
            is_newer(self._services.database)
        except WrongSchema as error:
            log.error("this worker stops: %s; %s", error.message, error.hint)
            os.kill(os.getpid(), signal.SIGTERM)
            return True
        return False

    def sweep_runs(self) -> None:
        """Remove the run folders of jobs that are gone, or over for a day."""
        runs = self._services.settings.runs
        names = [entry.name for entry in runs.iterdir()] if runs.is_dir() else []
        over = [state.value for state in TERMINAL]
        for name in names:
            with self._services.database.read() as session:
                now = now_of(session)
                row = session.get(JobRow, name)
            if row is None or (row.state in over and (row.ended_at or now) < now - RUN_KEPT_S):
                shutil.rmtree(runs / name, ignore_errors=True)
