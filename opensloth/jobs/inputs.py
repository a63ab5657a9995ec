"""What a job needs before it can be accepted: its files, its model, its dependencies and a host that could hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from opensloth.accounts.callers import HOST, Caller
from opensloth.accounts.secrets import SecretService
from opensloth.datasets.pulls import PullService
from opensloth.datasets.rows import FileCheckRow, FileRow
from opensloth.devices.rows import DeviceRow, HostRow
from opensloth.errors import FieldError, InvalidInput
from opensloth.integrations import WANDB_SECRET
from opensloth.jobs.data import JobData, find_data
from opensloth.jobs.rows import JobRow
from opensloth.jobs.spec import JobSpec
from opensloth.jobs.states import TERMINAL, State
from opensloth.models.choices import ModelChoice, unknown_model
from opensloth.models.names import JOB_ID
from opensloth.models.registry import ModelRegistry
from opensloth.resolve import DeviceFacts, Resolved, resolve
from opensloth.resolve_size import DataSize
from opensloth.rewards import RewardPolicy

SECTION = "opensloth_config"
MODEL_FIELD = f"{SECTION}.fast_model_args.model_name"
ADAPTER_FIELD = f"{SECTION}.pretrained_lora"


@dataclass(frozen=True)
class Foreseen:
    """What a job will train with, as far as is known before it starts; the base is there, an adapter may be to come."""

    resolved: Resolved
    choice: ModelChoice


@dataclass(frozen=True)
class Inputs:
    """What was found: `resolved` is None as long as no host or an unfinished job decides it."""

    data: JobData
    depends_on: list[str]
    resolved: dict[str, Any] | None
    foreseen: Foreseen | None = None


def resolve_inputs(
    session: Session,
    spec: JobSpec,
    caller: Caller,
    pulls: PullService | None,
    models: ModelRegistry,
    rewards: RewardPolicy,
) -> Inputs:
    """Check everything that a submission refers to; raises InvalidInput with the fields at fault."""
    if spec.secrets.hub is not None:
        SecretService.require(session, caller.owner, spec.secrets.hub, "secrets.hub")
    if spec.wandb is not None:
        field = "secrets.wandb" if spec.secrets.wandb else "integrations[0]"
        SecretService.require(session, caller.owner, spec.secrets.wandb or WANDB_SECRET, field)
    data = find_data(session, spec, caller, pulls, rewards)
    config = spec.opensloth_config
    names = {MODEL_FIELD: config.fast_model_args.model_name, ADAPTER_FIELD: config.pretrained_lora}
    hold_parents(session, [*spec.depends_on, *(name for name in names.values() if name and JOB_ID.fullmatch(name))])
    depends_on = _dependencies(session, spec, caller)
    found = [_unfinished_parent(session, name, field, caller) for field, name in names.items() if name]
    parents = [parent for parent in found if parent is not None]
    facts = _facts_for(session, spec)
    size = size_of(session, data.files.get("dataset"))
    if parents:
        foreseen = _foresee(session, spec, facts, parents, models, size)
        return Inputs(data, sorted({*depends_on, *(parent.id for parent in parents)}), None, foreseen)
    choice = models.choices.with_adapter(session, names[MODEL_FIELD] or "", names[ADAPTER_FIELD], SECTION, caller)
    if facts is None:
        return Inputs(data, depends_on, None)
    resolved = resolve_for(spec, facts, choice, size)
    return Inputs(data, depends_on, resolved.to_json(), Foreseen(resolved, choice))


def resolve_for(spec: JobSpec, facts: DeviceFacts, choice: ModelChoice, size: DataSize | None) -> Resolved:
    """The spec's configuration on such a device, from such a model and for so much data."""
    return resolve(
        spec.opensloth_config,
        spec.training_args,
        facts,
        adapter_lora=choice.adapter_lora,
        has_eval_dataset=spec.eval_dataset is not None,
        data=size,
    )


def size_of(session: Session, file_id: str | None) -> DataSize | None:
    """The size of a file of training data; None if there is none yet."""
    file = session.get(FileRow, file_id) if file_id is not None else None
    # Of any version of the rules: an attempt after an upgrade trains with the batch of the one before.
    found = session.get(FileCheckRow, file.sha256) if file is not None else None
    return DataSize(int(found.check["rows"]), file.bytes) if file is not None and found is not None else None


def facts_of(stored: dict[str, Any]) -> DeviceFacts:
    """A host's facts as its worker stored them; what a newer worker adds is left out."""
    known = asdict(DeviceFacts(kind="cpu", bf16=False, has_unsloth=False, has_bitsandbytes=False, count=1))
    return DeviceFacts(**{name: stored.get(name, default) for name, default in known.items()})


def hold_parents(session: Session, job_ids: Sequence[str]) -> None:
    """Let none of these jobs end before the transaction does: their end looks once for the jobs that wait for them."""
    if job_ids:
        # Oldest first, as the end of a job locks it before those that wait for it.
        oldest_first = select(JobRow.id).where(JobRow.id.in_(job_ids)).order_by(JobRow.created_at, JobRow.id)
        session.execute(oldest_first.with_for_update(read=True, key_share=True))


def _dependencies(session: Session, spec: JobSpec, caller: Caller) -> list[str]:
    """The jobs in `depends_on` that have not succeeded yet."""
    waiting = []
    for n, job_id in enumerate(spec.depends_on):
        row = session.get(JobRow, job_id)
        field = f"depends_on[{n}]"
        if row is None or not caller.can_see(row.team):
            raise InvalidInput("a job cannot be found", fields=[FieldError(field, f"there is no job {job_id!r}")])
        if row.state in (State.FAILED, State.CANCELLED):
            raise InvalidInput(
                "a job that it depends on is over", fields=[FieldError(field, f"the job {job_id} {_ended(row.state)}")]
            )
        if row.state != State.SUCCEEDED:
            waiting.append(job_id)
    return waiting


def _unfinished_parent(session: Session, name: str, field: str, caller: Caller) -> JobRow | None:
    """The job that `name` stands for, as long as its result is still to come."""
    if not JOB_ID.fullmatch(name):
        return None
    row = session.get(JobRow, name)
    if row is None or not caller.can_see(row.team):
        raise unknown_model(field, f"there is no job {name!r}")
    if State(row.state) not in TERMINAL:
        return row
    if row.state != State.SUCCEEDED:
        raise unknown_model(field, f"the job {name} {_ended(row.state)} and left no model")
    return None


def _foresee(
    session: Session,
    spec: JobSpec,
    facts: DeviceFacts | None,
    parents: Sequence[JobRow],
    models: ModelRegistry,
    size: DataSize | None,
) -> Foreseen | None:
    """What the job will train with once its parents have succeeded; None if that is not known yet.

    Raises InvalidInput where the spec does not fit the adapter that a job which is not over will leave.
    """
    foreseen = None
    for parent in parents:
        first = _first_resolved(session, parent)
        if first is None or first.resolved is None or facts is None:
            continue
        lora: dict[str, Any] | None = first.resolved["opensloth_config"].get("lora_args")
        resolved = resolve_for(spec, facts, ModelChoice(base_id=parent.id, adapter_lora=lora), size)
        name = spec.opensloth_config.fast_model_args.model_name
        base = models.choices.of(session, _base_name(session, name), MODEL_FIELD, HOST)
        foreseen = Foreseen(resolved, replace(base, adapter_lora=lora))
    return foreseen


def _first_resolved(session: Session, job: JobRow) -> JobRow | None:
    """The nearest job of the line whose result has the shape of this job's; None if that is not known yet."""
    row: JobRow | None = job
    while row is not None and row.resolved is None:
        row = session.get(JobRow, row.model_id) if row.model_id else None
    return row


def _base_name(session: Session, name: str) -> str:
    """The model that a line of jobs starts from."""
    while JOB_ID.fullmatch(name) and (row := session.get(JobRow, name)) is not None and row.state not in TERMINAL:
        name = row.model_id
    return name


def _facts_for(session: Session, spec: JobSpec) -> DeviceFacts | None:
    """The facts of a host that can hold the job; None as long as no worker has ever reported.

    Raises InvalidInput where workers are known and none has enough devices.
    """
    counts = session.execute(
        select(HostRow.id, HostRow.facts, func.count(DeviceRow.id))
        .join(DeviceRow, DeviceRow.host_id == HostRow.id)
        .group_by(HostRow.id, HostRow.seen_at)
        .order_by(HostRow.seen_at.desc(), HostRow.id)
    ).all()
    if not counts:
        return None
    for _, facts, count in counts:
        if count >= spec.resources.gpus:
            return replace(facts_of(facts), count=max(1, spec.resources.gpus))
    most = max(count for _, _, count in counts)
    raise InvalidInput(
        "no host can hold this job",
        code="unplaceable",
        fields=[FieldError("resources.gpus", f"the largest host has {most} device{'s' * (most != 1)}")],
    )


def _ended(state: str) -> str:
    return "was cancelled" if state == State.CANCELLED else state
