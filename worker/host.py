"""This host's loop: a sign of life, a plan, placements taken up, stops carried out, lost jobs taken back."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time

from opensloth.connections import PATIENCE_S
from opensloth.devices.health import SILENT
from opensloth.devices.inventory import discover
from opensloth.devices.nvml import Nvml
from opensloth.errors import OpenSlothError, Unavailable
from opensloth.jobs.attempts import AttemptService
from opensloth.jobs.endings import End
from opensloth.jobs.planning import plan_round
from opensloth.jobs.states import StopIntent
from opensloth.schema import require_schema
from opensloth.services import Services
from opensloth.storage.space import shortage
from worker.compiled import trim_compiled
from worker.descendants import kill_marked
from worker.device_watch import DeviceWatch
from worker.host_lock import HostLock
from worker.housekeeping import Housekeeping
from worker.imports import Imports
from worker.launch import run_folder
from worker.processes import RUN_VARIABLE, kill_leftovers
from worker.promises import Promises
from worker.renewals import Renewals
from worker.standby_pool import StandbyPool
from worker.supervisor import Supervisor
from worker.webhooks import Webhooks

log = logging.getLogger(__name__)

_AGAIN_S = 1.0
"""Between two tries while the database is away."""


class Host:
    """The worker's own threads; Celery's tasks only wake them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings
        self._id = services.settings.host_id
        self._worker = secrets.token_hex(8)
        nvml = Nvml(self._settings.nvml_module)
        found = discover(self._settings.devices, self._id, nvml, self._settings.nvml_timeout_s)
        self._devices = {device.id: device for device in found}
        self._watch = DeviceWatch(found, nvml, services.devices, self._settings)
        self._attempts = AttemptService(services.database, services.events, services.publisher, services.settings)
        self._imports = Imports(services, self._id)
        self._standbys = StandbyPool(self._settings, self._devices, self._watch.readings)
        self._renewals = Renewals(services.database, services.settings.lease_s)
        self._supervisors: dict[str, Supervisor] = {}
        self._wake = threading.Event()
        self._draining = threading.Event()
        self._lock: HostLock | None = None
        self._short = False
        self._reap_from = 0.0
        self._seen_at = time.monotonic()
        """When the database took this host's latest sign of life."""
        self._promises = Promises(services, self._draining)
        self._rounds = threading.Thread(target=self._loop, name="host", daemon=True)
        self._threads = [
            self._promises,
            threading.Thread(target=self._beat_loop, name="heartbeat", daemon=True),
            self._rounds,
            Housekeeping(services, self._draining),
            Webhooks(services, self._draining),
        ]

    def start(self) -> None:
        """Begin, as soon as the database is there. Raises OpenSlothError if this host has a worker already."""
        self._lock = HostLock(self._services)
        if not self._begin():
            threading.Thread(target=self._begin_later, name="begin", daemon=True).start()

    def _begin_later(self) -> None:
        while not self._draining.wait(_AGAIN_S):
            try:
                if self._begin():
                    return
            except OpenSlothError as error:
                log.error("this worker cannot begin: %s (%s)", error.message, error.hint)
            except Exception:
                log.exception("this worker cannot begin; it tries again")

    def _begin(self) -> bool:
        """Take the host over and start its threads; False while the database is away."""
        try:
            self._take_over()
        except Unavailable as error:
            log.warning("this worker waits: %s (%s)", error.message, error.hint)
            return False
        self._watch.start()
        trim_compiled(self._settings)
        self._standbys.start()
        self._seen_at = time.monotonic()
        for thread in self._threads:
            thread.start()
        log.info("ready: host %s has %s", self._id, ", ".join(device.name for device in self._devices.values()))
        return True

    def _take_over(self) -> None:
        """Register the host and clear what an earlier worker left. Raises WrongSchema."""
        require_schema(self._services.database)
        assert self._lock is not None
        self._lock.require_no_other()
        self._lock.sign(self._worker)
        self._register()
        self._services.devices.lift(list(self._devices), SILENT)  # it has answered
        self._services.devices.set_host_draining(self._id, False)
        for job_id, attempt, processes in self._attempts.abandon(self._id):
            killed = kill_leftovers(processes)
            kill_marked(RUN_VARIABLE, str(run_folder(self._services, job_id, attempt)))
            log.warning("%s: attempt %d was left by an earlier worker (%d processes killed)", job_id, attempt, killed)
            self._attempts.end(job_id, attempt, End("lost", "host_lost"))

    def _leave_to_another(self) -> None:
        """End here if another worker speaks for this host by now; the ranks follow their worker."""
        speaker = self._services.devices.speaker(self._id)
        if speaker is not None and speaker[0] not in (None, self._worker):
            log.error("another worker speaks for the host %s since this one was silent: leaving", self._id)
            logging.shutdown()
            os._exit(1)

    def wake(self) -> None:
        """Look at the database now."""
        self._wake.set()

    def drain(self) -> None:
        """Stop every attempt with a checkpoint and wait until all of them are gone; they are queued again.

        Each is told before the database is: while that is away, nothing must wait for it.
        """
        self._draining.set()
        self._wake.set()
        supervisors = list(self._supervisors.values())
        for supervisor in supervisors:
            supervisor.stop(StopIntent.DRAIN)
        try:
            self._services.devices.set_host_draining(self._id, True)
            for supervisor in supervisors:
                message = f"the host {self._id} stops"
                self._attempts.ask_stop(supervisor.job_id, supervisor.attempt, StopIntent.DRAIN, message)
        except Unavailable as error:
            log.warning("the database does not hear yet that this host stops: %s", error)
        if self._rounds.is_alive():
            self._rounds.join(PATIENCE_S)  # it may be about to take a job up
        for supervisor in list(self._supervisors.values()):
            supervisor.join()
        self._standbys.stop()
        self._imports.stop()
        self._watch.stop()

    def _register(self) -> None:
        self._services.devices.register(
            self._id, list(self._devices.values()), leases=self._settings.leases, worker=self._worker
        )

    def _beat_loop(self) -> None:
        """Keep the rows of host and devices fresh, whatever the other threads are busy with."""
        while not self._draining.wait(self._settings.heartbeat_s):
            try:
                self._watch.note_silence()
                if not self._services.devices.beat(self._id, self._watch.readings()):
                    self._register()
            except Unavailable:
                continue
            except Exception:
                log.exception("a sign of life failed")
            else:
                self._note_sign()

    def _note_sign(self) -> None:
        """After a gap other workers may have had none to renew their leases in: they get one lease's time for it."""
        now = time.monotonic()
        if now - self._seen_at > self._longest_gap_s:
            self._reap_from = now + self._settings.lease_s
        self._seen_at = now

    @property
    def _longest_gap_s(self) -> float:
        """Signs of life that are no further apart tell that leases could be renewed as well."""
        return self._settings.lease_s / 2

    def _loop(self) -> None:
        while not self._draining.is_set():
            try:
                self._round()
            except Unavailable as error:
                self._reap_from = time.monotonic() + self._settings.lease_s
                log.warning("the database is away: %s", error)
                self._draining.wait(_AGAIN_S)
                continue
            except Exception:
                log.exception("a round of the host's loop failed")
            self._wake.wait(self._settings.poll_s)
            self._wake.clear()

    def _round(self) -> None:
        self._leave_to_another()
        self._reap()
        if self._has_room():
            plan_round(self._services.database, self._services.events, self._services.publisher, self._settings)
        self._take_up()
        self._promises.wake()
        for job_id, intent in self._attempts.stop_intents(self._id).items():
            if job_id in self._supervisors:
                self._supervisors[job_id].stop(intent)
        self._imports.look()
        self._end_what_was_left()
        self._supervisors = {job_id: thread for job_id, thread in self._supervisors.items() if thread.is_alive()}

    def _has_room(self) -> bool:
        """Whether jobs may start: with a short disk they would fail at their first checkpoint."""
        short = shortage(self._services.storage, self._settings.home, self._settings.min_free_bytes)
        if short is not None and not self._short:
            log.warning("nothing is started: %s", short)
        self._short = short is not None
        return short is None

    def _supervised(self) -> set[tuple[str, int]]:
        """The attempts whose ends are still to be told by this process."""
        return {(job_id, thread.attempt) for job_id, thread in self._supervisors.items() if thread.is_alive()}

    def _reap(self) -> None:
        """Take back lost jobs; after an outage of the database only once every live worker could renew again."""
        recent = self._renewals.recent()
        now = time.monotonic()
        if now >= self._reap_from and now - self._seen_at <= self._longest_gap_s:
            for job_id in self._attempts.reap(self._supervised() | recent):
                log.warning("%s: its lease ran out", job_id)

    def _end_what_was_left(self) -> None:
        """A job that was taken up with nobody told of it would wait for its lease to run out."""
        for job_id, attempt in self._attempts.left(self._id, self._supervised()):
            log.warning("%s: attempt %d has no supervisor", job_id, attempt)
            self._attempts.end(job_id, attempt, End("lost", "not_taken_up"))

    def _take_up(self) -> None:
        if self._draining.is_set():
            return
        for placed in self._attempts.take_up(self._id):
            try:
                devices = [self._devices[device_id] for device_id in placed.device_ids]
            except KeyError as error:
                self._attempts.end(placed.job.id, placed.attempt, End("lost", "not_taken_up", f"no device {error}"))
                continue
            supervisor = Supervisor(
                self._services, self._attempts, placed, devices, len(self._devices), self._watch, self._standbys
            )
            self._supervisors[placed.job.id] = supervisor
            supervisor.start()
            if self._draining.is_set():
                supervisor.stop(StopIntent.DRAIN)
