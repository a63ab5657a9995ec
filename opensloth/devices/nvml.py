"""What the NVIDIA driver says about this host's GPUs; imports no torch and no database."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from opensloth.errors import OpenSlothError

log = logging.getLogger(__name__)

AMPERE = 8
"""The first compute capability (major) with bfloat16."""

_LOST = ("GPU_IS_LOST", "RESET_REQUIRED", "NOT_FOUND", "GPU_NOT_FOUND")
_GONE_DRIVER = ("UNINITIALIZED", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH")


@dataclass(frozen=True)
class Gpu:
    """A GPU as it is built; `memory_bytes` is what programs may use, without what the driver reserves."""

    uuid: str
    index: int
    name: str
    memory_bytes: int
    bf16: bool


@dataclass(frozen=True)
class GpuProcess:
    """A process with a context on a GPU; `bytes` is None where the driver does not say."""

    pid: int
    bytes: int | None


@dataclass(frozen=True)
class GpuSample:
    """A GPU at one moment; None: the driver does not say."""

    used_bytes: int
    processes: tuple[GpuProcess, ...] = ()
    utilization: int | None = None
    """Per cent."""
    temperature: int | None = None
    """Degrees Celsius."""
    uncorrected: int | None = None
    """Memory errors since the driver was loaded that its ECC could not correct."""


class NvmlAbsent(OpenSlothError):
    """There is no driver here, or it does not work."""

    code = "nvml_absent"


class GpuLost(OpenSlothError):
    """The driver has lost this GPU."""

    code = "gpu_lost"


class GpuUnreadable(OpenSlothError):
    """The driver did not answer a question about this GPU; the next time it may."""

    code = "gpu_unreadable"


class Nvml:
    """NVML behind a module of pynvml's functions. Any call may hang for as long as the driver does."""

    def __init__(self, module: str = "pynvml") -> None:
        self._api: Any = importlib.import_module(module)
        self._lock = threading.Lock()
        self._ready = False
        self._events: Any = None
        self.unreadable: set[int] = set()
        """Indices of GPUs that did not answer when `gpus` was asked last."""

    def gpus(self) -> list[Gpu]:
        """Every GPU that answers, by index; none where there is no driver."""
        api = self._api
        self.unreadable = set()
        try:
            self._init()
            count = int(api.nvmlDeviceGetCount())
        except (NvmlAbsent, api.NVMLError):
            return []
        found = []
        for index in range(count):
            try:
                found.append(self._gpu(index))
            except api.NVMLError as error:  # one that is lost must not hide the others
                self.unreadable.add(index)
                log.error("GPU %d does not answer and is left out: NVML: %s", index, error)
        return found

    def sample(self, uuid: str) -> GpuSample:
        """How a GPU is now; raises NvmlAbsent, GpuLost or GpuUnreadable."""
        api = self._api
        with self._judged():
            self._init()
            handle = self._handle(uuid)
            used = self._memory(handle)[1]
            return GpuSample(
                used_bytes=used,
                processes=self._processes(handle),
                utilization=self._optional(lambda: int(api.nvmlDeviceGetUtilizationRates(handle).gpu)),
                temperature=self._optional(lambda: int(api.nvmlDeviceGetTemperature(handle, api.NVML_TEMPERATURE_GPU))),
                uncorrected=self._optional(
                    lambda: int(
                        api.nvmlDeviceGetTotalEccErrors(
                            handle, api.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, api.NVML_VOLATILE_ECC
                        )
                    )
                ),
            )

    def process_bytes(self, uuid: str, pid: int) -> int | None:
        """What one process holds on a GPU in all, its context included; None where the driver does not say."""
        try:
            processes = self.sample(uuid).processes
        except OpenSlothError:
            return None
        return next((process.bytes for process in processes if process.pid == pid), None) or None

    def xids(self) -> list[tuple[str, int]]:
        """The critical errors (UUID, Xid number) that came since the last call; none where the driver keeps none."""
        api = self._api
        found: list[tuple[str, int]] = []
        with contextlib.suppress(api.NVMLError, NvmlAbsent):  # a timeout ends the list; not supported is an empty one
            self._init()
            if self._events is None:
                self._events = self._listen()
            while True:
                event = api.nvmlEventSetWait_v2(self._events, 0)
                if event.eventType == api.nvmlEventTypeXidCriticalError:
                    found.append((_text(api.nvmlDeviceGetUUID(event.device)), int(event.eventData)))
        return found

    def close(self) -> None:
        """Let go of the driver."""
        with self._lock:
            if self._ready:
                with contextlib.suppress(self._api.NVMLError):
                    self._api.nvmlShutdown()
                self._ready, self._events = False, None

    def _init(self) -> None:
        with self._lock:
            if self._ready:
                return
            try:
                self._api.nvmlInit()
            except self._api.NVMLError as error:
                raise NvmlAbsent(f"NVML: {error}") from error
            self._ready, self._events = True, None

    def _gpu(self, index: int) -> Gpu:
        api = self._api
        handle = api.nvmlDeviceGetHandleByIndex(index)
        major, _ = api.nvmlDeviceGetCudaComputeCapability(handle)
        memory = self._memory(handle)[0]
        name = _text(api.nvmlDeviceGetName(handle))
        return Gpu(_text(api.nvmlDeviceGetUUID(handle)), index, name, memory, bf16=int(major) >= AMPERE)

    def _handle(self, uuid: str) -> Any:
        # Asked anew each time: a GPU that fell off the bus and came back has another one.
        return self._api.nvmlDeviceGetHandleByUUID(uuid)

    def _memory(self, handle: Any) -> tuple[int, int]:
        """Bytes that programs may use and bytes that they do use; older drivers count what they reserve as used."""
        api = self._api
        with contextlib.suppress(api.NVMLError, AttributeError):
            memory = api.nvmlDeviceGetMemoryInfo(handle, version=api.nvmlMemory_v2)
            return int(memory.total) - int(memory.reserved), int(memory.used)
        memory = api.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.total), int(memory.used)

    def _processes(self, handle: Any) -> tuple[GpuProcess, ...]:
        """Compute and graphics; a process in both lists is one."""
        api = self._api
        held: dict[int, int | None] = {}
        for ask in (api.nvmlDeviceGetComputeRunningProcesses, api.nvmlDeviceGetGraphicsRunningProcesses):
            for process in self._optional(partial(ask, handle)) or []:
                size = None if process.usedGpuMemory is None else int(process.usedGpuMemory)
                pid = int(process.pid)
                held[pid] = max(filter(None, (size, held.get(pid))), default=None)
        return tuple(GpuProcess(pid, size) for pid, size in sorted(held.items()))

    def _listen(self) -> Any:
        api = self._api
        events = api.nvmlEventSetCreate()
        for index in range(int(api.nvmlDeviceGetCount())):
            with contextlib.suppress(api.NVMLError):
                handle = api.nvmlDeviceGetHandleByIndex(index)
                api.nvmlDeviceRegisterEvents(handle, api.nvmlEventTypeXidCriticalError, events)
        return events

    def _optional(self, ask: Callable[[], Any]) -> Any:
        """The answer, or None where this GPU or driver has none; that the GPU is lost is raised."""
        try:
            return ask()
        except self._api.NVMLError as error:
            if self._is(error, *_LOST):
                raise
            return None

    @contextlib.contextmanager
    def _judged(self) -> Iterator[None]:
        try:
            yield
        except self._api.NVMLError as error:
            if self._is(error, *_GONE_DRIVER):
                self.close()
                raise NvmlAbsent(f"NVML: {error}") from error
            kind = GpuLost if self._is(error, *_LOST) else GpuUnreadable
            raise kind(f"NVML: {error}") from error

    def _is(self, error: Any, *names: str) -> bool:
        return error.value in [getattr(self._api, f"NVML_ERROR_{name}", None) for name in names]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
