"""A job's datasets: files that are there, and datasets of the hub that it waits for until they are files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller
from opensloth.datasets.pulls import PullService
from opensloth.datasets.rows import DatasetPullRow
from opensloth.datasets.serving import columns_of, require_for_training
from opensloth.errors import InvalidInput
from opensloth.events.store import EventStore
from opensloth.jobs.reasons import reason
from opensloth.jobs.rows import JobRow, PullWaitRow
from opensloth.jobs.spec import JobSpec, load_job_spec
from opensloth.jobs.states import State
from opensloth.jobs.transitions import locked, release_if_ready, transition
from opensloth.rewards import BoundReward, RewardPolicy, build_rewards

FIELDS = ("dataset", "eval_dataset")
REWARDS = "opensloth_config.grpo_args.reward_functions"


@dataclass(frozen=True)
class JobData:
    """The ids of a job's files by field, and the pulls that it waits for by field."""

    files: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)


def find_data(
    session: Session,
    spec: JobSpec,
    caller: Caller,
    pulls: PullService | None,
    rewards: RewardPolicy,
) -> JobData:
    """The files that a submission names, checked, and a pull for each dataset of the hub; raises InvalidInput.

    Without `pulls` nothing is fetched, and datasets of the hub are taken to be there.
    """
    found = JobData()
    bound = _rewards(spec, rewards)
    for name in FIELDS:
        dataset = getattr(spec, name)
        if dataset is None:
            continue
        if not dataset.startswith("file-"):
            if pulls is None:
                continue
            known = pulls.known(session, dataset, caller)
            if known is None:
                found.pulls[name] = pulls.ask(session, dataset, spec.secrets.hub, caller, name).id
                continue
            dataset = known.id
        _require(session, spec, name, dataset, caller, bound)
        found.files[name] = dataset
    return found


def settle_pull(session: Session, pull: DatasetPullRow, events: EventStore, rewards: RewardPolicy) -> None:
    """Give the file of a pull that has ended to the jobs that wait for it, or fail them with it."""
    waiting = session.execute(
        select(PullWaitRow.job_id, PullWaitRow.field)
        .join(JobRow, JobRow.id == PullWaitRow.job_id)
        .where(PullWaitRow.pull_id == pull.id, JobRow.state == State.WAITING.value)
        .order_by(PullWaitRow.job_id, PullWaitRow.field)
    ).all()
    for job_id, name in waiting:
        job = locked(session, job_id)
        if job is None or job.state != State.WAITING:
            continue
        if pull.status == "failed" or pull.file_id is None:
            _fail(session, events, job_id, pull.reason or "dataset_error", f"{name}: {pull.error}")
            continue
        try:
            spec = load_job_spec(job.spec)
            owner = Caller(job.owner, "member", job.team)
            _require(session, spec, name, pull.file_id, owner, _rewards(spec, rewards))
        except InvalidInput as error:
            first = "; ".join(f"{wrong.path}: {wrong.message}" for wrong in error.fields[:3])
            _fail(session, events, job_id, "dataset_error", f"{error.message} ({first})")
            continue
        session.execute(update(JobRow).where(JobRow.id == job_id).values({f"{name}_id": pull.file_id}))
        release_if_ready(session, events, job_id)


def _require(
    session: Session,
    spec: JobSpec,
    name: str,
    file_id: str,
    caller: Caller,
    bound: Sequence[BoundReward],
) -> None:
    """Raise InvalidInput unless the file serves the job's method, form and rewards."""
    config = spec.opensloth_config
    row = require_for_training(session, file_id, config.training_type, name, caller, config.dataset_form)
    columns = columns_of(session, row) if bound else None
    missing = [] if columns is None else [error for one in bound for error in one.missing_columns(columns, REWARDS)]
    if missing:
        text = f"{row.filename} ({file_id}) lacks what the rewards read: {missing[0].message}"
        raise InvalidInput(text, fields=missing)


def _rewards(spec: JobSpec, policy: RewardPolicy) -> list[BoundReward]:
    """The rewards that a job names, with their parameters checked; none where its method has none."""
    grpo = spec.opensloth_config.grpo_args
    return [] if grpo is None else build_rewards(grpo.reward_functions, policy, path=REWARDS)


def _fail(session: Session, events: EventStore, job_id: str, code: str, text: str) -> None:
    why = reason(code)
    error = {"code": why.code, "message": text, "hint": why.hint, "log_tail": None}
    transition(
        session,
        events,
        job_id,
        State.FAILED,
        sources=[State.WAITING],
        reason=why.code,
        message=text,
        values={"error": error},
    )
