"""What a job's events add up to, for whoever draws it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from opensloth.client import Event, Job
from opensloth.remote.shapes import ENDED

CURVE = 400
"""How many of the newest losses are kept for the small curve."""

PHASES = {
    "loading_model": "loading the model",
    "preparing_data": "preparing the data",
    "training": "training",
    "saving": "saving the result",
    "importing": "importing libraries",
}


@dataclass
class JobProgress:
    """The state of one job as far as its events were seen."""

    job_id: str
    name: str = ""
    state: str = "queued"
    attempt: int = 0
    phase: str | None = None
    step: int = 0
    max_steps: int | None = None
    eta_s: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, job: Job) -> JobProgress:
        """The beginning: a job before any of its events."""
        return cls(job.id, job.name or job.id, "queued", job.attempt)

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.state in ENDED

    @property
    def fraction(self) -> float | None:
        """How much of the training is done, 0 to 1; None before the first step."""
        return min(1.0, self.step / self.max_steps) if self.max_steps else None

    def apply(self, event: Event) -> None:
        """Takes one event in."""
        data = event.data
        self.attempt = event.attempt or self.attempt
        if event.type == "state":
            self.state = str(data.get("to", self.state))
            if self.state in ENDED or self.state == "queued":
                self.phase, self.eta_s = None, None
        elif event.type == "phase":
            self.phase = str(data.get("phase"))
        elif event.type in {"started", "metrics"}:
            self._count(data)
            self._measure(data)

    def doing(self) -> str:
        """What the job does now, in words."""
        if self.state in {"starting", "running"} and self.phase:
            return PHASES.get(self.phase, self.phase.replace("_", " "))
        return self.state

    def _count(self, data: dict[str, Any]) -> None:
        step = data.get("step")
        if isinstance(step, int):
            if step < self.step:  # a resumed attempt repeats steps after its checkpoint
                self.losses.clear()
                self.margins.clear()
            self.step = step
        self.max_steps = data.get("max_steps") or self.max_steps
        eta = data.get("eta_s")
        self.eta_s = float(eta) if isinstance(eta, int | float) else self.eta_s

    def _measure(self, data: dict[str, Any]) -> None:
        values = data.get("metrics")
        if not isinstance(values, dict):
            return
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        self.metrics |= numbers
        for name, kept in (("loss", self.losses), ("rewards/margins", self.margins)):
            if name in numbers:
                kept.append(numbers[name])
                del kept[:-CURVE]
