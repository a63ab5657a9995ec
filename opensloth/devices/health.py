"""When a device has to leave service, as far as what was seen of it tells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

SILENT = "the NVIDIA driver does not answer"
"""A reason that ends by itself, when the driver answers again."""

FATAL_XIDS = {
    48: "memory error that ECC could not correct",
    62: "internal micro-controller halt",
    64: "failure to record a bad memory row",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    95: "uncontained memory error",
    119: "the GPU's system processor timed out",
    120: "error of the GPU's system processor",
    140: "unrecovered memory error",
}
"""Xid numbers of NVIDIA's catalogue that say that the GPU, not a program on it, is at fault."""

ERRORS_IN_A_ROW = 3
"""Attempts that end with a device error, one after the other, before their device leaves service."""
UNREADABLE_IN_A_ROW = 5
"""Samples without an answer before a device counts as failed."""


@dataclass
class DeviceHealth:
    """What was seen of one device since this worker began; each method returns the reason for a quarantine, if any."""

    name: str
    uncorrected: int | None = None
    unreadable: int = 0
    failed_jobs: list[str] = field(default_factory=list)
    """The jobs of the last attempts in a row that ended with a device error."""

    def sampled(self, uncorrected: int | None) -> str | None:
        """The driver answered; `uncorrected` counts ECC's uncorrectable errors. What was there before is not new."""
        before, self.uncorrected, self.unreadable = self.uncorrected, uncorrected, 0
        if before is not None and uncorrected is not None and uncorrected > before:
            return f"ECC could not correct {uncorrected - before} memory error(s)"
        return None

    def not_read(self, why: str) -> str | None:
        """The driver did not answer for this device alone."""
        self.unreadable += 1
        return f"it cannot be read: {why}" if self.unreadable >= UNREADABLE_IN_A_ROW else None

    def xid(self, number: int) -> str | None:
        """The driver reported an Xid."""
        meaning = FATAL_XIDS.get(number)
        return f"Xid {number}: {meaning}" if meaning else None

    def ended(self, job_id: str, code: str | None) -> str | None:
        """An attempt on it ended, with this failure code or none."""
        if code != "device_error":
            if code is None:
                self.failed_jobs.clear()
            return None
        self.failed_jobs.append(job_id)
        if len(self.failed_jobs) < ERRORS_IN_A_ROW:
            return None
        jobs = ", ".join(sorted(set(self.failed_jobs)))
        return f"{len(self.failed_jobs)} attempts in a row failed on it with a device error ({jobs})"


@dataclass
class Suspects:
    """Jobs that have met device errors; one that meets them on a second device is likely their cause."""

    met: dict[str, set[str]] = field(default_factory=dict)

    def ended(self, job_id: str, device_ids: Collection[str]) -> bool:
        """Note a device error of a job; whether the job itself is now the suspect, and pays for its retries."""
        before = self.met.setdefault(job_id, set())
        elsewhere = bool(before) and not before & set(device_ids)
        before |= set(device_ids)
        return elsewhere or len(before) > len(device_ids)


def out_of_memory_victim(available: int, floor: int, held: Sequence[tuple[str, int]]) -> str | None:
    """The job to end when the host's memory runs out: the largest of (job, bytes); None while there is enough."""
    if available >= floor or not held:
        return None
    return max(held, key=lambda entry: (entry[1], entry[0]))[0]
