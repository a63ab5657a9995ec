"""Looks at this host's devices every few seconds, in a thread of its own: the driver may hang, the worker must not."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from opensloth.devices.health import SILENT, DeviceHealth, Suspects, out_of_memory_victim
from opensloth.devices.inventory import FoundDevice
from opensloth.devices.nvml import GpuLost, GpuUnreadable, Nvml, NvmlAbsent
from opensloth.devices.readings import Attribution, Process, Reading, is_freed
from opensloth.devices.service import DeviceService
from opensloth.errors import OpenSlothError, Unavailable
from opensloth.settings import Settings
from worker.host_memory import ProcessTable, memory_left, resident_bytes

log = logging.getLogger(__name__)

_PATIENCE_S = 5.0
"""How long the end of the worker waits for a look that is under way."""


@dataclass
class Holding:
    """A job on devices of this host; the watch writes what it sees of it, the job's supervisor reads."""

    job_id: str
    device_ids: tuple[str, ...]
    """By rank."""
    limit_bytes: int | None
    """Beyond this on one device it is over; None: it cannot be."""
    roots: tuple[int, ...] = ()
    """Pids of the ranks, once they are started."""
    pids: set[int] = field(default_factory=set)
    """Every process of the job that was ever seen."""
    held: dict[str, int] = field(default_factory=dict)
    """Bytes on each device in the last sample where anybody could tell; RSS on a CPU slot."""
    peak_bytes: int | None = None
    resident_bytes: int = 0
    """RSS of all its processes at the last sample at which it had any."""
    over: int = 0
    """Samples in a row in which it held more than its share."""
    over_at: float | None = None
    """When it last did, by the monotonic clock."""
    failure: str | None = None
    """Why a device of it is out of service."""
    out_of_memory: bool = False
    """The host's memory has run out, and this job holds the most."""


class DeviceWatch:
    """The newest reading of each device, and what each job holds; quarantines what fails."""

    def __init__(self, devices: Sequence[FoundDevice], nvml: Nvml, service: DeviceService, settings: Settings) -> None:
        self._devices = {device.id: device for device in devices}
        self._nvml = nvml
        self._service = service
        self._settings = settings
        self._seen = threading.Condition()
        self._readings: dict[str, Reading] = {}
        self._holdings: dict[str, Holding] = {}
        self._health = {device.id: DeviceHealth(device.name) for device in devices}
        self._attributions = {device.id: Attribution() for device in devices if device.kind == "cuda"}
        self._suspects = Suspects()
        self._lost: dict[str, str] = {}
        self._unwritten: dict[str, str] = {}
        self._began: float | None = None
        """When the sample that is under way began."""
        self._silent = False
        self._due = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="devices", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a driver that hangs is not waited for."""
        self._stopped.set()
        self._due.set()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_S)

    def readings(self) -> dict[str, Reading]:
        """The newest reading of each device that was read."""
        with self._seen:
            return dict(self._readings)

    def look_again(self, timeout_s: float) -> None:
        """Return when a sample has been taken that began after this call, or after `timeout_s`."""
        moment = time.monotonic()
        self._due.set()
        with self._seen:
            self._seen.wait_for(lambda: any(seen.taken > moment for seen in self._readings.values()), timeout_s)

    def hold(self, job_id: str, device_ids: Sequence[str], limit_bytes: int | None) -> Holding:
        """From now on the job holds these devices, by rank."""
        holding = Holding(job_id, tuple(device_ids), limit_bytes)
        with self._seen:
            for device_id in set(device_ids) & set(self._lost):  # an admin put it back too early
                holding.failure = self._unwritten[device_id] = self._lost[device_id]
            self._holdings[job_id] = holding
        return holding

    def let_go(self, holding: Holding) -> None:
        """The job holds its devices no more."""
        with self._seen:
            if self._holdings.get(holding.job_id) is holding:
                del self._holdings[holding.job_id]

    def neighbours(self, holding: Holding) -> list[Holding]:
        """The other jobs on its devices."""
        with self._seen:
            return [
                other
                for other in self._holdings.values()
                if other is not holding and set(other.device_ids) & set(holding.device_ids)
            ]

    def is_largest(self, holding: Holding) -> bool:
        """Whether no other job on this host holds more of the host's memory."""
        with self._seen:
            return all(other.resident_bytes <= holding.resident_bytes for other in self._holdings.values())

    def held_back(self, holding: Holding, wait: Callable[[], bool]) -> list[str]:
        """Wait until the memory of a job whose processes are gone is free; returns the devices that did not free it.

        `wait` pauses a moment and says whether to go on; a driver that is silent, and devices that failed, are not
        waited for.
        """
        if not holding.roots or holding.failure:
            return []
        gone = time.monotonic()
        waiting = [device for device in holding.device_ids if device in self._attributions]
        while waiting := [device for device in waiting if not self._is_freed(holding, device, gone)]:
            if time.monotonic() - gone > self._settings.device_free_s:
                return [device for device in waiting if self._read_since(device, gone) is not None]
            if self._silent:
                return []
            self._due.set()
            if not wait():
                return []
        return []

    def ended(self, holding: Holding, code: str | None, device_ids: Sequence[str]) -> bool:
        """Note how an attempt ended, with which failure code on which devices; whether the job is to blame for it."""
        blamed = code == "device_error" and self._suspects.ended(holding.job_id, device_ids)
        if not blamed:
            for device_id in device_ids:
                self.fail(device_id, self._health[device_id].ended(holding.job_id, code))
        return blamed

    def fail(self, device_id: str, reason: str | None) -> None:
        """Take a device out of service and tell the jobs on it, if there is a reason."""
        if reason is None:
            return
        with self._seen:
            self._unwritten.setdefault(device_id, reason)
            for holding in self._holdings.values():
                if device_id in holding.device_ids and holding.failure is None:
                    holding.failure = reason

    def write_failures(self) -> None:
        """Bring what failed into the database, before a job can be placed there again; raises Unavailable."""
        with self._seen:
            unwritten = dict(self._unwritten)
        for device_id, reason in unwritten.items():
            self._service.quarantine(device_id, reason)
            with self._seen:
                self._unwritten.pop(device_id, None)

    def note_silence(self) -> None:
        """Take the GPUs out of service while the driver does not answer, and back when it does; raises Unavailable."""
        began = self._began
        silent = began is not None and time.monotonic() - began > self._settings.nvml_timeout_s
        if silent and not self._silent:
            for device_id in self._attributions:
                self._service.quarantine(device_id, SILENT)
            self._silent = True
        elif not silent and self._silent:
            self._service.lift(list(self._attributions), SILENT)
            self._silent = False

    def _loop(self) -> None:
        while not self._stopped.is_set():
            try:
                self._began = time.monotonic()
                self.look()
                self._began = None
                self.write_failures()
            except Unavailable as error:
                log.warning("the devices' state is not written: %s", error)
            except Exception:
                log.exception("a look at the devices failed")
            self._began = None
            self._due.wait(self._settings.heartbeat_s)
            self._due.clear()

    def look(self) -> None:
        """Take one sample of everything."""
        taken = time.monotonic()
        with self._seen:
            holdings = list(self._holdings.values())
        table = ProcessTable() if holdings or self._attributions else None
        resident: dict[str, list[int]] = {}
        for holding in holdings:
            trees = table.trees(holding.roots) if table else []
            holding.pids = holding.pids.union(*trees)
            resident[holding.job_id] = [resident_bytes(tree) for tree in trees]
            holding.resident_bytes = sum(resident[holding.job_id]) or holding.resident_bytes
        visible = table.pids if table else set()
        readings = {
            device_id: self._gpu(device_id, holdings, visible, taken)
            if device.kind == "cuda"
            else _slot(device_id, holdings, resident, taken)
            for device_id, device in self._devices.items()
        }
        for device_id, number in self._nvml.xids() if self._attributions else []:
            if device_id in self._health:
                self.fail(device_id, self._health[device_id].xid(number))
        self._judge_host(holdings, resident)
        for holding in holdings:
            _measure(holding, readings, taken)
        with self._seen:
            self._readings = readings
            self._seen.notify_all()

    def _gpu(self, device_id: str, holdings: Sequence[Holding], visible: set[int], taken: float) -> Reading:
        health = self._health[device_id]
        holders = {holding.job_id: holding.pids for holding in holdings if device_id in holding.device_ids}
        try:
            sample = self._nvml.sample(device_id)
        except (GpuLost, NvmlAbsent) as error:
            self._lose(device_id, error)
        except GpuUnreadable as error:
            self.fail(device_id, health.not_read(error.message))
        else:
            self._lost.pop(device_id, None)
            self.fail(device_id, health.sampled(sample.uncorrected))
            return self._attributions[device_id].read(sample, holders, visible, taken)
        return Reading(taken, None)

    def _lose(self, device_id: str, error: OpenSlothError) -> None:
        if device_id not in self._lost:
            self._lost[device_id] = reason = f"it is lost ({error.message})"
            self.fail(device_id, reason)

    def _is_freed(self, holding: Holding, device_id: str, gone: float) -> bool:
        reading = self._read_since(device_id, gone)
        if reading is None:
            return False
        if reading.used_bytes is None:
            return True  # lost, and out of service already
        return is_freed(reading, holding.job_id, holding.pids, alone=not self._shares(holding, device_id))

    def _read_since(self, device_id: str, moment: float) -> Reading | None:
        reading = self.readings().get(device_id)
        return reading if reading is not None and reading.taken > moment else None

    def _shares(self, holding: Holding, device_id: str) -> bool:
        return any(device_id in other.device_ids for other in self.neighbours(holding))

    @staticmethod
    def _judge_host(holdings: Sequence[Holding], resident: dict[str, list[int]]) -> None:
        if any(holding.out_of_memory for holding in holdings):
            return  # one at a time: what it frees may be enough
        left, floor = memory_left()
        held = [(holding.job_id, sum(resident[holding.job_id])) for holding in holdings if holding.roots]
        victim = out_of_memory_victim(left, floor, held)
        for holding in holdings:
            if holding.job_id == victim:
                holding.out_of_memory = True


def _slot(device_id: str, holdings: Sequence[Holding], resident: dict[str, list[int]], taken: float) -> Reading:
    """A CPU slot: the ranks on it and all that they started."""
    processes = [
        Process(root, size, holding.job_id)
        for holding in holdings
        for device, root, size in zip(holding.device_ids, holding.roots, resident[holding.job_id], strict=False)
        if device == device_id
    ]
    return Reading(taken, sum(process.bytes or 0 for process in processes), processes=tuple(processes))


def _measure(holding: Holding, readings: dict[str, Reading], taken: float) -> None:
    held = {device: readings[device].bytes_of(holding.job_id) for device in holding.device_ids if device in readings}
    known = {device: size for device, size in held.items() if size is not None}
    holding.held = known
    if known:
        most = max(known.values())
        holding.peak_bytes = max(most, holding.peak_bytes or 0)
        is_over = holding.limit_bytes is not None and most > holding.limit_bytes
        holding.over = holding.over + 1 if is_over else 0
        holding.over_at = taken if is_over else holding.over_at
