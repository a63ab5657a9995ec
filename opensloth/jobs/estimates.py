"""The answer to `POST /v1/jobs/estimate`: what a job would need, where it would fit, and when it would start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field

from opensloth.accounts.callers import Caller
from opensloth.database import Database
from opensloth.devices.disk import checkpoint_bytes, export_bytes, result_bytes
from opensloth.errors import InvalidInput, NotAllowed
from opensloth.jobs.assessment import GIVEN, Assessment, Assessor, largest, require_given, require_room, within
from opensloth.jobs.inputs import resolve_inputs
from opensloth.jobs.queue import QueueService
from opensloth.jobs.queue_views import QueueView
from opensloth.jobs.requirements import PRECISIONS
from opensloth.jobs.spec import PRIORITIES, JobSpec, parse_job_spec
from opensloth.models.export_formats import Quantization
from opensloth.models.registry import ModelRegistry
from opensloth.rewards import RewardPolicy
from opensloth.scheduling.types import Device, QueuedJob, Rules, Running

Basis = Literal["asked", "measured", "estimated", "unknown"]


class Assumed(BaseModel):
    """What the estimate was made for."""

    engine: str
    device: Literal["cuda", "cpu"]
    precision: str = Field(description="Of the base weights: 4bit, 8bit, 16bit or 32bit.")
    rows: int = Field(description="Rows in one pass on one device.")
    tokens: int = Field(description="The length that each row is taken to have.")
    checkpointing: Literal["none", "layers", "offload"]
    optimizer: str
    trained_parameters: int | None


class MemoryParts(BaseModel):
    """Bytes on each device. The total is everything but the last three, and the largest of what comes and goes:
    activations with logits, generation, or the optimizer's step."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    reference: int = Field(description="A reference model, or the frozen adapter that training goes on from.")
    context: int = Field(description="CUDA's context and kernels; on a CPU the libraries.")
    activations: int
    logits: int
    generation: int = Field(description="GRPO: the KV cache and logits while answers are sampled.")
    step: int = Field(description="While the optimizer steps.")
    total: int


class Disk(BaseModel):
    """Bytes in storage."""

    checkpoint: int = Field(description="One checkpoint: what is trained and its optimizer.")
    checkpoints: int = Field(description="The most at once: those kept, the best, and the one being written.")
    result: int
    exports: dict[str, int] = Field(description="By format or quantization.")


class Fit(BaseModel):
    """A device that is in service, and whether it holds the job."""

    device: str
    host: str
    memory_bytes: int
    alone: bool = Field(description="It holds the job when nothing else runs there.")
    shared: bool = Field(description="It has room for the job beside others.")
    now: bool = Field(description="It has that room now.")


class Duration(BaseModel):
    """How long it takes, from jobs of the same shape, or of the nearest size."""

    steps: int | None = None
    start_s: float | None = Field(None, description="From placement to the end of the first step.")
    step_s: float | None = None
    expected_s: float | None = Field(None, description="The time limit included.")


class EstimateView(BaseModel):
    """What a job needs on each of its devices."""

    object: Literal["estimate"] = "estimate"
    basis: Basis = Field(description="Where `memory_bytes` comes from.")
    memory_bytes: int | None = Field(description="What it is given on each device; None: it takes whole devices.")
    peak_bytes: int | None = Field(None, description="The highest peak that jobs of this shape were measured at.")
    parts: MemoryParts | None = Field(None, description="The estimate, with rows as long as they may be.")
    least_bytes: int | None = Field(None, description="What it needs for certain.")
    assumed: Assumed | None = None
    disk: Disk | None = None
    duration: Duration = Duration()
    devices: int
    fits: list[Fit] = []
    placeable: bool = Field(True, description="Whether it would be accepted.")
    notes: list[str] = []
    queue: QueueView | None = Field(None, description="What it would be told if it were submitted now.")


class EstimateService:
    """Estimates jobs that nobody has submitted yet; everything is checked as at submission, and nothing is written."""

    def __init__(
        self,
        database: Database,
        models: ModelRegistry,
        rewards: RewardPolicy,
        assessor: Assessor,
        queue: QueueService,
    ) -> None:
        self._db = database
        self._models = models
        self._rewards = rewards
        self._assessor = assessor
        self._queue = queue

    def estimate(self, body: Any, caller: Caller) -> EstimateView:
        """What the job in `body` needs; raises InvalidInput with the fields at fault."""
        spec = parse_job_spec(body)
        if spec.priority == "urgent" and not caller.is_admin:
            raise NotAllowed("only an admin may submit urgent jobs", hint="use priority high, normal or low")
        with self._db.read() as session:
            inputs = resolve_inputs(session, spec, caller, None, self._models, self._rewards)
            found = None
            if inputs.foreseen is not None:
                found = self._assessor.assess(session, spec, inputs.foreseen, waits=inputs.resolved is None)
            room = largest(session, max(1, spec.resources.gpus))
        view = _view(spec, found, room)
        asked = QueuedJob(
            "this job",
            caller.owner,
            PRIORITIES[spec.priority],
            0.0,
            view.devices,
            team=caller.team,
            memory=view.memory_bytes,
            exclusive=spec.resources.exclusive,
            expected_s=view.duration.expected_s,
            time_limit_s=spec.time_limit,
        )
        seen = self._queue.snapshot().seen
        view.fits = fits(seen.devices, seen.running, asked, found)
        if inputs.depends_on:
            view.notes.append(f"it would wait for {', '.join(inputs.depends_on)} first")
        elif view.placeable:
            view.queue = self._queue.expected_start_of(asked, caller)
        return view


def fits(devices: Sequence[Device], running: Sequence[Running], job: QueuedJob, found: Assessment | None) -> list[Fit]:
    """For each device in service whether it holds the job: alone, beside others, and beside those that run now."""
    least = found.least.total if found is not None and found.least is not None else 0
    needs = job.memory if job.memory is not None else least
    return [_fit(device, [other for other in running if device.id in other.device_ids], job, needs)
            for device in devices if device.usable]  # fmt: skip


def _fit(device: Device, there: list[Running], job: QueuedJob, needs: int) -> Fit:
    given = device.memory * GIVEN - device.foreign if device.memory else float("inf")
    alone = needs <= (given if job.memory is not None else device.memory or needs)
    shared = alone and not job.whole
    free = given - sum(other.memory or 0 for other in there)
    places = len(there) < Rules().max_sharers and all(other.memory is not None for other in there)
    return Fit(
        device=device.id,
        host=device.host_id,
        memory_bytes=device.memory,
        alone=alone,
        shared=shared,
        now=alone and (not there or (shared and places and needs <= free)),
    )


def _view(spec: JobSpec, found: Assessment | None, room: int | None) -> EstimateView:
    devices, asked = max(1, spec.resources.gpus), spec.resources.memory
    if found is None:
        basis: Basis = "asked" if asked is not None else "unknown"
        note = "no worker has reported yet, so that nobody knows on what it would run"
        return EstimateView(basis=basis, memory_bytes=asked, devices=devices, notes=[note])
    peak = found.measured.peak_bytes if found.measured else None
    view = EstimateView(
        basis="asked" if asked else "measured" if peak else "estimated" if found.most else "unknown",
        memory_bytes=asked if asked is not None else within(found.share, room),
        peak_bytes=peak,
        parts=_parts(found),
        least_bytes=found.least.total if found.least else None,
        assumed=_assumed(found),
        disk=_disk(spec, found),
        duration=_duration(spec, found),
        devices=devices,
        notes=[f"{found.note}; it takes whole devices until one of its kind has run"] if found.note else [],
    )
    if found.resolved.device == "cpu" and asked is None:
        view.notes.append("on CPUs a job has its slot alone, unless it says in resources.memory what it needs")
    try:
        if room and asked is not None:
            require_given(asked, room)
        elif room:
            require_room(found, room)
    except InvalidInput as refusal:
        view.placeable = False
        view.notes += [f"{field.path}: {field.message}" for field in refusal.fields]
        view.notes += [refusal.hint] if refusal.hint else []
    return view


def _parts(found: Assessment) -> MemoryParts | None:
    most = found.most
    if most is None:
        return None
    names = [name for name in MemoryParts.model_fields if name != "total"]
    return MemoryParts(**{name: getattr(most, name) for name in names}, total=most.total)


def _assumed(found: Assessment) -> Assumed:
    most = found.need.most
    return Assumed(
        engine=found.resolved.engine,
        device=found.resolved.device,
        precision=PRECISIONS[most.bits],
        rows=most.rows,
        tokens=most.tokens,
        checkpointing=most.checkpointing,
        optimizer=most.optimizer,
        trained_parameters=found.most.trained_parameters if found.most else None,
    )


def _disk(spec: JobSpec, found: Assessment) -> Disk | None:
    if found.model is None or found.most is None:
        return None
    one = checkpoint_bytes(found.most, found.need.most)
    best = found.resolved.training_args.load_best_model_at_end
    kept = (found.resolved.training_args.save_total_limit or 2) + 1 + int(best)
    forms = ["merged_16bit", *get_args(Quantization)]
    exports = {form: export_bytes(found.model, form) for form in forms}
    if not found.need.most.full:
        exports["adapter"] = result_bytes(found.most, found.need.most)
    return Disk(
        checkpoint=one, checkpoints=one * kept, result=result_bytes(found.most, found.need.most), exports=exports
    )


def _duration(spec: JobSpec, found: Assessment) -> Duration:
    times = found.times
    return Duration(
        steps=found.steps,
        start_s=times.start_s if times else None,
        step_s=times.step_s if times else None,
        expected_s=found.expected_s(spec.time_limit),
    )
