"""How an attempt ended, by the exit statuses of its ranks and its last records."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opensloth.errors import Unavailable
from opensloth.jobs.endings import End
from opensloth.jobs.results_file import ResultsFile, store_results
from opensloth.jobs.rows import JobRow
from opensloth.jobs.states import StopIntent
from opensloth.services import Services
from worker.log_shipper import LogShipper
from worker.records import RecordPump

log = logging.getLogger(__name__)

STOPPED = 10
"""Exit status of a trainer that saved a checkpoint and left because it was asked to."""
LEFT = 75
"""Exit status of a trainer that heard nothing of its lease for too long."""
_TERMINATED = -15
_FOLLOWERS_GRACE_S = 5.0
_LITTLE_BYTES = 1 << 20
"""With less free space a record of a failure may find no room."""


class Deaths:
    """The first of an attempt's ranks to die; the others follow, as they wait for those in a collective."""

    def __init__(self) -> None:
        self._first_at: float | None = None
        self._slain: set[int] = set()
        """Those that died by a signal, which was not ours then, or for want of a lease."""

    def note(self, statuses: Sequence[int | None]) -> None:
        """Look at every rank's exit status, None while it lives; call it all the time, and before a kill."""
        if self._first_at is None and not all(status in (None, 0, STOPPED) for status in statuses):
            self._first_at = time.monotonic()
            dead = {rank: status for rank, status in enumerate(statuses) if status is not None}
            self._slain = {rank for rank, status in dead.items() if status < 0 or status == LEFT}

    def were_waited_for(self) -> bool:
        """Whether the others had long enough to follow: they would wait for ever."""
        return self._first_at is not None and time.monotonic() - self._first_at > _FOLLOWERS_GRACE_S

    def explain(self, failure: Mapping[str, Any]) -> bool:
        """Whether another rank was killed or left first, and this failure is that one lost it in an exchange."""
        return failure.get("code") == "internal_error" and bool(self._slain - {failure.get("local_rank")})


def success(services: Services, job: JobRow, run_dir: Path, pump: RecordPump) -> End:
    """The end of an attempt with a result."""
    result = pump.result or {}
    results = _results_file(services, job, run_dir)
    return End("succeeded", result=result, lora=_lora(services, result), step_s=pump.step_s, results=results)


def no_success(
    statuses: Sequence[int | None],
    intent: StopIntent | None,
    deaths: Deaths,
    pump: RecordPump,
    logs: LogShipper,
    run_dir: Path,
) -> End:
    """The end of an attempt without one: stopped by `intent`, failed or lost."""
    if intent is StopIntent.KILL:
        return End("stopped")
    if pump.failure is not None and not deaths.explain(pump.failure):
        failure = pump.failure
        tail = logs.tail() or failure.get("detail")
        result = {"exit_code": failure["exit_code"]} if "exit_code" in failure else {}
        return End("failed", str(failure.get("code")), failure.get("message"), failure.get("hint"), tail, result=result)
    if intent is not None and all(status in (0, STOPPED, _TERMINATED) for status in statuses):
        return End("stopped")
    if LEFT in statuses:
        return End("lost", "lease_lost")
    codes = ", ".join(_exit_name(status) for status in statuses)
    if shutil.disk_usage(run_dir).free < _LITTLE_BYTES:
        text = f"the disk of OPENSLOTH_HOME is full, so that the trainer could not even say why it ended ({codes})"
        return End("failed", "storage_error", text, log_tail=logs.tail())
    return End("failed", "trainer_killed", f"the trainer ended without a result ({codes})", log_tail=logs.tail())


def _results_file(services: Services, job: JobRow, run_dir: Path) -> ResultsFile | None:
    """The file of metrics of a training; a success is not lost for want of it."""
    if job.kind != "training":
        return None
    try:
        return store_results(services.database, services.events, services.storage, run_dir, job.id)
    except (OSError, Unavailable):
        log.exception("%s: its file of metrics could not be written", job.id)
        return None


def _lora(services: Services, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The adapter's configuration, for jobs that start from it."""
    if "key" not in result:
        return None
    try:
        with services.storage.open(f"{result['key']}/adapter_config.json") as file:
            loaded: dict[str, Any] = json.load(file)
            return loaded
    except FileNotFoundError:
        return None


def _exit_name(status: int | None) -> str:
    if status is None:
        return "running"
    return f"signal {-status}" if status < 0 else f"exit status {status}"
