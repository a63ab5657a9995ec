"""One thread for each attempt: starts its ranks, carries its records, and sees it to its end."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from opensloth.chat.engine.spec import ChatRun
from opensloth.devices.inventory import FoundDevice
from opensloth.errors import OpenSlothError, Unavailable
from opensloth.jobs.attempts import AttemptService, Placed
from opensloth.jobs.endings import End
from opensloth.jobs.states import StopIntent
from opensloth.services import Services
from opensloth.training.evaluations.spec import EvaluationRun
from opensloth.training.exports.spec import ExportRun
from opensloth.training.pulse import SAVING
from opensloth.training.run_spec import RunSpec
from worker.command_process import GuardedCommand
from worker.command_run import CommandRun
from worker.device_watch import DeviceWatch
from worker.ending import reason_of, write_end
from worker.launch import CannotStart, device_environment, prepare_run, run_folder, training_environment
from worker.launch_chat import chat_secrets, prepare_chat
from worker.launch_command import prepare_command
from worker.launch_evaluation import prepare_evaluation
from worker.launch_export import prepare_export, secrets_of
from worker.lease import Lease
from worker.log_shipper import LogShipper
from worker.processes import Ranks
from worker.records import RecordPump
from worker.share import Share
from worker.stalls import StallWatch
from worker.standby_pool import StandbyPool
from worker.verdict import Deaths, no_success, success

log = logging.getLogger(__name__)

_TICK_S = 0.1

_PREPARE: dict[
    str, Callable[..., tuple[RunSpec | ExportRun | EvaluationRun | CommandRun | ChatRun, dict[str, Any]]]
] = {
    "training": prepare_run,
    "export": prepare_export,
    "evaluation": prepare_evaluation,
    "command": prepare_command,
    "chat": prepare_chat,
}


class Supervisor(threading.Thread):
    """Sees one attempt to its end; `stop` may be called from any thread."""

    def __init__(
        self,
        services: Services,
        attempts: AttemptService,
        placed: Placed,
        devices: Sequence[FoundDevice],
        slots: int,
        watch: DeviceWatch,
        standbys: StandbyPool,
    ) -> None:
        super().__init__(name=f"supervisor-{placed.job.id}", daemon=True)
        self.job_id, self.attempt = placed.job.id, placed.attempt
        self._services = services
        self._attempts = attempts
        self._placed = placed
        self._devices = devices
        self._slots = slots
        self._standbys = standbys
        self._run_dir = run_folder(services, self.job_id, self.attempt)
        self._pump = RecordPump(self._run_dir / "events.jsonl", self.job_id, self.attempt, attempts)
        self._logs = LogShipper(
            self._run_dir / "trainer.log", services.storage, f"jobs/{self.job_id}/logs/attempt-{self.attempt}.log"
        )
        self._pump.longest_step_s, self._pump.longest_save_s = placed.longest_step_s, placed.longest_save_s
        self._stalls = StallWatch(self._run_dir, services.settings.stall_s)
        self._share = Share(watch, placed, devices)
        self._condemned: End | None = None
        """Why the attempt was killed, as it goes beyond its share or stands still."""
        self._deaths = Deaths()
        self._ranks: Ranks | None = None
        self._stop_intent: StopIntent | None = None
        self._wake = threading.Event()
        self._ours = True
        self._stop_once = threading.Lock()
        self._kill_at: float | None = None
        self._save_until = 0.0
        self._began = time.monotonic()
        self._lease = Lease(attempts, self.job_id, self.attempt, services.settings, self.stop, self._lose)

    def stop(self, intent: StopIntent) -> None:
        """Ask the attempt to stop: a checkpoint, then its end."""
        self._stop_intent = intent
        if self._ranks is not None and intent is not StopIntent.KILL:
            self._tell_to_stop(self._ranks)  # from here: the supervisor itself may be waiting for the database
        self._wake.set()

    def _tell_to_stop(self, ranks: Ranks) -> None:
        """SIGTERM, once, and from then on the time that it has."""
        with self._stop_once:
            if self._kill_at is not None:
                return
            pump, settings, now = self._pump, self._services.settings, time.monotonic()
            grace = settings.stop_grace_s + 2 * pump.longest_step_s + 2 * pump.longest_save_s
            self._kill_at = now + grace
            self._save_until = now + max(grace, settings.stall_s)
            ranks.terminate()

    def _lose(self) -> None:
        self._ours = False
        self._wake.set()

    def run(self) -> None:
        """The life of the attempt; whatever fails here ends it with a reason, never silently."""
        self._lease.start()
        try:
            self._live()
        finally:
            self._standbys.settled(self.job_id)
            self._lease.let_go()
            self._share.let_go()

    def _live(self) -> None:
        try:
            end = self._supervise()
        except OpenSlothError as error:
            end = End("failed", reason_of(error), error.message, error.hint, self._logs.tail())
        except Exception as error:
            log.exception("the supervisor of %s failed", self.job_id)
            end = End("failed", reason_of(error), f"{type(error).__name__}: {error}", log_tail=self._logs.tail())
        finally:
            if self._ranks is not None:
                self._ranks.kill()
        self._free_devices()
        if self._ours:
            write_end(self._attempts, self.job_id, self.attempt, end)
        else:
            log.warning("%s: attempt %d is not ours any more; it was ended here", self.job_id, self.attempt)
        if end.kind != "failed":
            shutil.rmtree(self._run_dir, ignore_errors=True)

    def _supervise(self) -> End:
        prepare = _PREPARE.get(self._placed.job.kind)
        if prepare is None:
            kind = self._placed.job.kind
            raise CannotStart(f"this worker's release knows no jobs of the kind {kind!r}", code="host_outdated")
        run, resolved = prepare(self._services, self._placed, self._devices)
        self._attempts.set_resolved(self.job_id, self.attempt, resolved)
        if self._stop_intent is not None:
            return End("stopped")
        self._ranks = ranks = self._spawn(run)
        self._lease.attach(ranks)
        self._logs.start()
        self._share.started([process.pid for process in ranks.processes])
        self._attempts.started_processes(self.job_id, self.attempt, ranks.identities())
        while ranks.alive() and self._ours:
            self._wake.wait(_TICK_S)
            self._wake.clear()
            self._carry()
            if self._pump.has_started:
                self._standbys.settled(self.job_id)
            self._enforce_time_limit()
            self._enforce_stop(ranks)
            self._follow_a_dead_rank(ranks)
            self._enforce_share(ranks)
            self._enforce_progress(ranks)
        statuses = ranks.poll()
        self._deaths.note(statuses)
        ranks.kill()
        self._carry_rest()
        return self._share.judged(self._verdict(statuses), self._pump.failure, self._pump.peak_bytes)

    def _spawn(self, run: RunSpec | ExportRun | EvaluationRun | CommandRun | ChatRun) -> Ranks:
        """Start what the attempt runs."""
        if isinstance(run, CommandRun):
            return GuardedCommand.start(self.job_id, self._run_dir, self._lease.until)
        settings, job, until = self._services.settings, self._placed.job, self._lease.until
        if isinstance(run, ChatRun):
            environment = device_environment(self._devices, self._slots, os.cpu_count() or 1)
            told = chat_secrets(self._services, job, run)
            return Ranks.spawn(settings.chat_module, self._run_dir, 1, environment, told, lease_until=until)
        secrets = secrets_of(self._services, job, run.model)
        if isinstance(run, ExportRun | EvaluationRun):
            environment = device_environment(self._devices, self._slots, os.cpu_count() or 1)
            module = settings.exporter_module if isinstance(run, ExportRun) else settings.evaluator_module
            return Ranks.spawn(module, self._run_dir, 1, environment, secrets, lease_until=until)
        offline = os.path.isabs(run.model)
        environment = training_environment(settings, self._devices, self._slots, offline=offline)
        with self._standbys.lend(self.job_id, run.engine, self._devices, environment) as standbys:
            module, size = settings.trainer_module, run.world_size
            return Ranks.spawn(module, self._run_dir, size, environment, secrets, standbys, self._pause, until)

    def _pause(self) -> bool:
        """A moment; whether the attempt is to go on."""
        self._wake.wait(_TICK_S)
        return self._ours and self._stop_intent is None

    def _carry(self) -> None:
        """Records to the database; while it is away they are tried again on the next tick."""
        try:
            if not self._pump.pump():
                self._ours = False
        except (Unavailable, OSError) as error:
            log.warning("%s: records wait: %s", self.job_id, error)
            self._wake.wait(1.0)

    def _carry_rest(self) -> None:
        """The last records must be in the database before the end is written."""
        while self._ours:
            try:
                if not self._pump.pump_rest():
                    self._ours = False
                break
            except Unavailable:
                time.sleep(1.0)
        self._logs.finish()

    def _enforce_time_limit(self) -> None:
        job = self._placed.job
        if job.time_limit_s is None or self._stop_intent is not None:
            return
        if job.run_s + time.monotonic() - self._began > job.time_limit_s:
            try:
                self._attempts.ask_stop(self.job_id, self.attempt, StopIntent.TIME_LIMIT, "the time limit was reached")
            except Unavailable:
                return
            self._stop_intent = StopIntent.TIME_LIMIT

    def _enforce_stop(self, ranks: Ranks) -> None:
        """SIGTERM once, then SIGKILL after what a step and a save of this very job have needed.

        A save that is under way gets more: without it the job would begin at the same step again, for ever.
        """
        if self._stop_intent is None:
            return
        if self._stop_intent is StopIntent.KILL:
            ranks.kill()
        elif self._kill_at is None:
            self._tell_to_stop(ranks)
        elif time.monotonic() > (self._save_until if self._stalls.doing == SAVING else self._kill_at):
            log.warning("%s: the trainer did not stop in time and is killed", self.job_id)
            ranks.kill()

    def _follow_a_dead_rank(self, ranks: Ranks) -> None:
        self._deaths.note(ranks.poll())
        if self._deaths.were_waited_for():
            ranks.kill()

    def _enforce_share(self, ranks: Ranks) -> None:
        """A job that is beyond its share, or has lost a device, ends now; a checkpoint would need what is not there."""
        self._condemned = self._condemned or self._share.verdict()
        if self._condemned is not None:
            ranks.kill()

    def _enforce_progress(self, ranks: Ranks) -> None:
        """A run that stands still is ended; where its ranks stood is put on the job."""
        if self._placed.job.kind == "command" or self._stop_intent is not None or self._condemned is not None:
            return
        if not self._stalls.look(self._pump.offset, self._logs.written):
            return
        self._condemned, told = self._stalls.verdict(ranks, lambda: time.sleep(_TICK_S))
        log.warning("%s: %s", self.job_id, told.message)
        ranks.kill()
        try:
            self._attempts.note(self.job_id, self.attempt, told)
        except Unavailable as error:
            log.warning("%s: its stacks are not on the job: %s", self.job_id, error)

    def _free_devices(self) -> None:
        """Keep the lease until the devices have their memory back; it is a part of the attempt."""

        def wait() -> bool:
            self._wake.wait(_TICK_S)
            self._wake.clear()
            return self._ours

        while self._ours:
            try:
                self._share.settle(wait)
                return
            except Unavailable:
                time.sleep(1.0)

    def _verdict(self, statuses: list[int | None]) -> End:
        if self._pump.result is not None and all(status == 0 for status in statuses):
            return success(self._services, self._placed.job, self._run_dir, self._pump)
        if self._condemned is not None:
            return replace(self._condemned, log_tail=self._condemned.log_tail or self._logs.tail())
        return no_success(statuses, self._stop_intent, self._deaths, self._pump, self._logs, self._run_dir)
