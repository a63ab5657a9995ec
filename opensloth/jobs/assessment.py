"""What a job needs, by estimate or by what jobs of its shape have needed, and what share of a device it is given."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from opensloth.datasets.rows import FileRow
from opensloth.datasets.stored import stored_check
from opensloth.devices.estimate import GIB, MIB, Estimate
from opensloth.devices.model_shape import ModelShape
from opensloth.devices.rows import DeviceRow
from opensloth.devices.shapes import Known, known, shape_key, similar
from opensloth.jobs.inputs import Foreseen
from opensloth.jobs.model_shapes import ModelShapes
from opensloth.jobs.requirements import KNOWN_METHODS, Requirement, estimates, key_of, requirement, steps_of
from opensloth.jobs.row_lengths import RowLengthReader, longest_of
from opensloth.jobs.rows import JobRow
from opensloth.jobs.spec import JobSpec
from opensloth.jobs.tool_calls import ToolCalls
from opensloth.jobs.unplaceable import beyond_box, unplaceable
from opensloth.models.choices import ModelChoice
from opensloth.resolve import Resolved, without_checkpointing
from opensloth.resolve_sharding import with_sharding
from opensloth.scheduling.types import Rules
from opensloth.storage import Storage

ESTIMATE_MARGIN, ESTIMATE_SPARE = 1.15, 512 * MIB
"""What an estimated share is given beyond the estimate: for what is not foreseen, and for the allocator's holes."""
MEASURED_MARGIN, MEASURED_SPARE = 1.1, 256 * MIB
"""The same beyond a measured peak, which other data of the same lengths may exceed a little."""
_KEPT_SHARE = 0.75
"""Of a device: activations are kept by a job that stays below."""
GIVEN = 1 - Rules().memory_margin
"""The part of a device that jobs are given."""
_LARGEST_BOX = select(func.count(DeviceRow.id)).group_by(DeviceRow.host_id).order_by(func.count().desc()).limit(1)
EXPORT_STEPS = 100
"""An export counts its progress in per cent."""


@dataclass(frozen=True)
class Assessment:
    """A job's needs; what is None is not known, and `note` says why."""

    resolved: Resolved
    need: Requirement
    model: ModelShape | None
    most: Estimate | None
    """With rows as long as they may be."""
    least: Estimate | None
    """What is certain."""
    shape: str
    measured: Known | None
    """Of jobs of this very shape."""
    times: Known | None
    """The same, or those of the nearest size."""
    steps: int | None
    note: str | None
    box: int = 1
    """Devices of the largest host."""

    @property
    def share(self) -> int | None:
        """Bytes on each device with which it may run beside others; None if it takes the device whole.

        A slot of CPUs is a share of the cores already: two jobs on it would halve each other.
        """
        if self.resolved.device != "cuda":
            return None
        if self.measured is not None and self.measured.peak_bytes is not None:
            return int(self.measured.peak_bytes * MEASURED_MARGIN) + MEASURED_SPARE
        return None if self.most is None else int(self.most.total * ESTIMATE_MARGIN) + ESTIMATE_SPARE

    def expected_s(self, time_limit_s: float | None) -> float | None:
        """How long it will hold its devices: the start, then the steps, and not beyond its time limit."""
        if self.times is None or self.times.step_s is None or self.steps is None:
            return None
        seconds = (self.times.start_s or 0.0) + self.steps * self.times.step_s
        return seconds if time_limit_s is None else min(seconds, time_limit_s)


class Assessor:
    """Assesses jobs from what is stored about their model, their data and their shape."""

    def __init__(self, storage: Storage) -> None:
        self.models = ModelShapes(storage)
        self._lengths = RowLengthReader(storage)
        self._calls = ToolCalls(storage)

    def assess(self, session: Session, spec: JobSpec, foreseen: Foreseen, *, waits: bool = False) -> Assessment:
        """The needs of a job on each of its devices.

        Weights are in shards where the whole does not fit, and activations are kept where there is clearly room for
        them. A job that `waits` for its parents is resolved when they have ended. Raises InvalidDataset for tool calls
        that the model's chat template leaves out.
        """
        named = {"dataset": spec.dataset, "eval_dataset": spec.eval_dataset}
        files = {field: session.get(FileRow, name) for field, name in named.items() if name is not None}
        self._calls.require_form(session, spec, foreseen.choice, files)
        found = self._assess(session, spec, foreseen)
        if waits:
            return found
        device = largest(session, max(1, spec.resources.gpus)) or 0
        found = self._in_shards(session, spec, foreseen, found, spec.resources.memory or int(GIVEN * device))
        foreseen = replace(foreseen, resolved=found.resolved)
        room = spec.resources.memory or int(_KEPT_SHARE * device)
        faster = without_checkpointing(foreseen.resolved, "there is memory for all activations, and it is faster")
        if faster is None or found.model is None or found.note is not None:
            return found
        keeping = self._assess(session, spec, replace(foreseen, resolved=faster))
        return keeping if keeping.share is not None and keeping.share <= room else found

    def _in_shards(
        self, session: Session, spec: JobSpec, foreseen: Foreseen, whole: Assessment, room: int
    ) -> Assessment:
        ran = whole.measured is not None and whole.measured.peak_bytes is not None
        if whole.most is None or whole.most.total <= room or spec.resources.gpus < 2 or not room or ran:
            return whole
        reason = f"the whole model does not fit one device; each of the {spec.resources.gpus} holds a part"
        resolved = with_sharding(foreseen.resolved, reason)
        if resolved is None:
            return whole
        found = self._assess(session, spec, replace(foreseen, resolved=resolved))
        return found if found.least is not None and found.least.total <= room else whole

    def _assess(self, session: Session, spec: JobSpec, foreseen: Foreseen) -> Assessment:
        resolved, choice = foreseen.resolved, foreseen.choice
        devices = max(1, spec.resources.gpus)
        dataset = session.get(FileRow, spec.dataset)
        evaluation = session.get(FileRow, spec.eval_dataset) if spec.eval_dataset is not None else None
        lengths = [self._lengths.of(file) for file in (dataset, evaluation) if file is not None]
        check = stored_check(session, dataset.sha256) if dataset is not None else None
        model = self.models.of(choice.storage_key) if choice.storage_key is not None else None
        need = requirement(
            resolved,
            longest_of(lengths) if dataset is not None else None,
            devices=devices,
            from_adapter=choice.adapter_lora is not None,
            vocabulary=model.vocab if model else 0,
        )
        note = _why_unknown(resolved, choice, model)
        most, least = estimates(model, need) if model is not None and note is None else (None, None)
        shape = key_of(resolved, need, choice.base_id, model, _data_of(spec, dataset, evaluation))
        measured = known(session, shape)
        return Assessment(
            resolved=resolved,
            need=need,
            model=model,
            most=most,
            least=least,
            shape=shape,
            measured=measured,
            times=measured if measured and measured.step_s is not None else similar(session, shape),
            steps=steps_of(resolved, check.rows if check else None, dataset.bytes if dataset else None, devices),
            note=note,
            box=session.scalar(_LARGEST_BOX) or 1,
        )

    def fill(self, session: Session, row: JobRow, spec: JobSpec, foreseen: Foreseen | None) -> None:
        """Write what the job needs into its row; raises InvalidInput where no device of the box can hold it."""
        asked, room = spec.resources.memory, largest(session, row.device_count)
        row.exclusive, row.memory_bytes = spec.resources.exclusive, asked
        if asked is not None and room:
            require_given(asked, room)
        if foreseen is None:
            return
        found = self.assess(session, spec, foreseen, waits=row.resolved is None)
        if row.resolved is not None:
            row.resolved = found.resolved.to_json()
        row.shape, row.expected_s = found.shape, found.expected_s(spec.time_limit)
        if asked is not None:
            return
        if room:
            require_room(found, room)
        row.memory_bytes = within(found.share, room)

    def fill_export(
        self,
        session: Session,
        row: JobRow,
        *,
        form: str,
        precision: str,
        choice: ModelChoice | None,
        time_limit: int | None,
    ) -> None:
        """The same for an export or an evaluation of a result that is there; of one to come it takes a whole device."""
        kinds = set(session.scalars(select(DeviceRow.kind).distinct()))
        if choice is None or len(kinds) != 1:
            return
        (kind,) = kinds
        model = self.models.of(choice.storage_key) if choice.storage_key is not None else None
        row.shape = shape_key(
            device=kind,
            engine="export",
            method=form,
            model=f"{choice.base_id}@{model.parameters if model else '?'}",
            precision=precision,
            adapter="adapter" if choice.adapter_lora else "full",
            memory="",
            tokens=1,
            batch=1,
            passes=1,
            world_size=1,
            data="",
        )
        times = known(session, row.shape)
        if times is not None and times.step_s is not None:
            seconds = (times.start_s or 0.0) + EXPORT_STEPS * times.step_s
            row.expected_s = seconds if time_limit is None else min(seconds, time_limit)
        if kind != "cuda" or model is None:
            return
        # One model at a time, in 16 bits or, where it was trained in full, in 32; a few short prompts.
        peak = times.peak_bytes if times is not None and times.peak_bytes else 4 * model.parameters + GIB
        row.memory_bytes = within(int(peak * ESTIMATE_MARGIN) + ESTIMATE_SPARE, largest(session, 1))


def largest(session: Session, devices: int) -> int | None:
    """Memory of the smallest of `devices` devices on the host where that is largest; None if nobody knows."""
    hosts: dict[str, list[int]] = {}
    for host, memory in session.execute(select(DeviceRow.host_id, DeviceRow.memory_bytes)):
        hosts.setdefault(host, []).append(memory)
    sizes = [sorted(held, reverse=True)[devices - 1] for held in hosts.values() if len(held) >= devices]
    return max(sizes, default=0) or None


def within(share: int | None, room: int | None) -> int | None:
    """`share`, or None for the whole device where it leaves no room for others anyway."""
    return None if share is None or room is None or share > room * GIVEN else share


def require_given(asked: int, room: int) -> None:
    """Raise InvalidInput for a job that asks for more than is given of the `room` bytes of the largest device."""
    if asked > room * GIVEN:
        raise beyond_box(asked, int(room * GIVEN), room)


def require_room(found: Assessment, room: int) -> None:
    """Raise InvalidInput for a job that needs more than the `room` bytes of the largest device for certain."""
    ran = found.measured is not None and found.measured.peak_bytes is not None
    if found.model is not None and found.least is not None and found.least.total > room and not ran:
        raise unplaceable(found.model, found.need.most, found.least, room, found.box)


def _data_of(spec: JobSpec, *files: FileRow | None) -> str:
    """What tells the job's data apart: their contents, or the names of those that are still to come."""
    names = [file.sha256 for file in files if file is not None] or [str(spec.dataset), str(spec.eval_dataset)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _why_unknown(resolved: Resolved, choice: ModelChoice, model: ModelShape | None) -> str | None:
    """Why nothing can be said of the job's memory before it has run."""
    if resolved.opensloth_config.training_type not in KNOWN_METHODS:
        return "the method comes from a plugin, whose memory is not known"
    if choice.storage_key is None:
        return f"{choice.hub_id or choice.base_id} is fetched from the hub by the job itself, and its size is not known"
    return "the model's config.json does not say how large it is" if model is None else None
