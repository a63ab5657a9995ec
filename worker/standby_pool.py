"""The standbys of this host: the next job's trainer is there before the job, and never in anybody's way."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from opensloth.devices.inventory import FoundDevice
from opensloth.devices.readings import Reading
from opensloth.settings import Settings
from worker.fingerprint import fingerprint
from worker.host_memory import memory_left
from worker.launch import training_environment
from worker.processes import kill_leftovers
from worker.standby import Standby

log = logging.getLogger(__name__)

LIST_NAME = "standbys.json"
ON_A_GPU = 2
"""Standbys of a GPU where the setting does not say: one for each engine that was used."""
ENOUGH_BYTES = 6 << 30
"""Host memory that must be left for a new one; they take some 1 to 2 GiB."""
SCARCE_BYTES = 2 << 30
"""With less than this left they make room."""
CROWDED_PART = 0.85
"""With more than this part of a GPU's memory used, what holds some of it makes room."""
LOOK_S = 1.0
_AGAIN_S = 60.0
"""After one whose imports failed; doubles each time."""
_LONGEST_AGAIN_S = 3600.0


@dataclass
class Place:
    """What a device keeps for one engine: the environment of the last job there, and the process, if there is one."""

    device: FoundDevice
    engine: str
    environment: Mapping[str, str]
    standby: Standby | None = None
    failures: int = 0
    not_before: float = 0.0
    uses_device: bool = False
    """Its imports speak to CUDA, so that it may hold memory of the device."""


@dataclass
class StandbyPool:
    """Keeps `settings.standby` trainers for each device; a job is never made to wait for a new one."""

    settings: Settings
    devices: Mapping[str, FoundDevice]
    readings: Callable[[], Mapping[str, Reading]] = dict
    """What the driver says of each device."""
    _places: dict[str, list[Place]] = field(default_factory=dict)
    """By device, the engine that was used last first."""
    _starting: set[str] = field(default_factory=set)
    """Jobs before their first step."""
    _made: int = 0
    rounds: int = 0
    """How often it has looked after them."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._folder = self.settings.home.expanduser() / "standby"
        self._known: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._loop, name="standby", daemon=True)

    def limit(self, device: FoundDevice) -> int:
        """How many standbys the device may have."""
        if self.settings.standby is not None:
            return self.settings.standby
        return ON_A_GPU if device.kind == "cuda" else 0

    def _expect(self) -> None:
        """Before any job: what `engine: auto` means. One for Unsloth, which holds GPU memory, comes after its first."""
        for device in self.devices.values():
            environment = training_environment(self.settings, [device], len(self.devices), offline=True)
            self._places[device.id] = [Place(device, "transformers", environment)][: self.limit(device)]

    def start(self) -> None:
        """End what an earlier worker left, and begin."""
        with contextlib.suppress(OSError, ValueError):
            kill_leftovers(json.loads((self._folder / LIST_NAME).read_text()))
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._expect()
        self._thread.start()

    def stop(self) -> None:
        """End them all."""
        self._stopped.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            for place in self.places():
                self._drop(place)

    @contextlib.contextmanager
    def lend(
        self, job_id: str, engine: str, devices: Sequence[FoundDevice], environment: Mapping[str, str]
    ) -> Iterator[list[Standby | None]]:
        """For each rank the standby of its device, or None; one that has not been handed over at the end is ended.

        No new one is started until the job is `settled`: a job's start is not slowed by the next one's.
        """
        taken: list[Standby | None] = []
        if any(self.limit(device) for device in devices):
            now = fingerprint(self.settings.trainer_module)
            with self._lock:
                self._starting.add(job_id)
                taken = [self._take(device, engine, environment, now) for device in devices]
        try:
            yield taken
        finally:
            for standby in taken:
                if standby is not None:
                    standby.end()

    def settled(self, job_id: str) -> None:
        """The job has done its first step, or has ended."""
        if job_id in self._starting:
            with self._lock:
                self._starting.discard(job_id)
            self._wake.set()

    def _take(self, device: FoundDevice, engine: str, environment: Mapping[str, str], now: str) -> Standby | None:
        place = self._place(device, engine, environment)
        if place is None or place.standby is None:
            return None
        standby = place.standby
        standby.look()
        if standby.is_over or standby.fingerprint != now or not standby.fits(environment):
            self._drop(place)
            return None
        place.standby = None
        return standby

    def _place(self, device: FoundDevice, engine: str, environment: Mapping[str, str]) -> Place | None:
        """The device's place for this engine, from now on its first."""
        places = self._places.setdefault(device.id, [])
        place = next((one for one in places if one.engine == engine), None) or Place(device, engine, environment)
        place.environment = environment
        if place in places:
            places.remove(place)
        places.insert(0, place)
        limit = self.limit(device)
        for last in places[limit:]:
            self._drop(last)
        del places[limit:]
        return place if limit else None

    def _loop(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._lock:
                    self._round()
            except Exception:
                log.exception("the standbys could not be looked after")
            self._wake.wait(LOOK_S)
            self._wake.clear()

    def _round(self) -> None:
        self.rounds += 1
        left, floor = memory_left()
        crowded = self._crowded()
        for place in self.places():
            full = place.uses_device and place.device.id in crowded
            self._judge(place, "the host's" if left < floor + SCARCE_BYTES else "its device's" if full else None)
        self._remember()
        importing = sum(place.standby is not None and not place.standby.ready for place in self.places())
        if self._starting or self._stopped.is_set() or left < floor + ENOUGH_BYTES:
            return
        at_once = max(1, (os.cpu_count() or 1) // 4)
        due = [
            place
            for place in self.places()
            if place.standby is None
            and time.monotonic() >= place.not_before
            and not (place.uses_device and place.device.id in crowded)
        ]
        for place in due[: max(0, at_once - importing)]:
            self._fill(place)
            self._remember()

    def places(self) -> list[Place]:
        """Every place, first those of the engine that each device used last."""
        places = [place for some in self._places.values() for place in enumerate(some)]
        return [place for _, place in sorted(places, key=lambda entry: entry[0])]

    def _crowded(self) -> set[str]:
        """The GPUs that have little memory left."""
        return {
            device_id
            for device_id, reading in self.readings().items()
            if device_id in self.devices
            and self.devices[device_id].kind == "cuda"
            and (reading.used_bytes or 0) > CROWDED_PART * self.devices[device_id].memory_bytes
        }

    def _judge(self, place: Place, short_of: str | None) -> None:
        """Drop a standby that is of no use, or in the way; `short_of`: whose memory is short."""
        standby = place.standby
        if standby is None:
            return
        standby.look()
        if standby.ready:
            place.failures, place.uses_device = 0, standby.has_cuda
        if standby.is_over:
            place.failures += 1
            pause = min(_LONGEST_AGAIN_S, _AGAIN_S * 2 ** (place.failures - 1))
            place.not_before = time.monotonic() + pause
            log.warning("a standby for %s has ended; another one in %.0f s\n%s", place.engine, pause, standby.told())
            self._drop(place)
        elif short_of is not None:
            log.info("the standby for %s makes room: %s memory is short", place.engine, short_of)
            self._drop(place)

    def _fill(self, place: Place) -> None:
        self._made += 1
        folder = self._folder / f"{self._made}"
        module = self.settings.trainer_module
        place.standby = Standby.start(module, place.engine, place.environment, fingerprint(module), folder)

    def _drop(self, place: Place) -> None:
        if place.standby is not None:
            place.standby.end()
            place.standby = None

    def _remember(self) -> None:
        """Keep on disk which there are, for a worker that comes after this one was killed.

        They leave by themselves; one that is stopped cannot.
        """
        known: list[dict[str, Any]] = []
        for place in self.places():
            with contextlib.suppress(psutil.NoSuchProcess):
                if place.standby is not None:
                    pid = place.standby.process.pid
                    started = psutil.Process(pid).create_time()
                    ready = place.standby.ready
                    known.append({"pid": pid, "started": started, "engine": place.engine, "ready": ready})
        if known != self._known:
            self._known = known
            aside = self._folder / f"{LIST_NAME}.new"
            aside.write_text(json.dumps(known))
            aside.rename(self._folder / LIST_NAME)
