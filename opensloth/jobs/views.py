"""Jobs as clients see them: the JSON of the HTTP surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar, cast

from pydantic import BaseModel, Field

from opensloth.events.records import rfc3339
from opensloth.jobs.queue_views import QueueView
from opensloth.jobs.rows import CheckpointRow, JobRow
from opensloth.jobs.spec import PRIORITY_NAMES

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """One page of a list; pass `last_id` as `after` for the next."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None

    @classmethod
    def of(cls, data: Sequence[T], has_more: bool = False, key: str = "id") -> Page[T]:
        """The page with these entries, whose field `key` a client passes as `after`."""
        first, last = (str(getattr(data[0], key)), str(getattr(data[-1], key))) if data else (None, None)
        return cls(data=list(data), has_more=has_more, first_id=first, last_id=last)


class Progress(BaseModel):
    """How far a job is; `eta_s` in seconds, `percent` from 0 to 100, `tokens` trained so far."""

    step: int = 0
    max_steps: int | None = None
    epoch: float | None = None
    tokens: int | None = None
    percent: float | None = None
    eta_s: float | None = None


class Artifact(BaseModel):
    """One file that a job made."""

    name: str
    bytes: int
    sha256: str


class JobResult(BaseModel):
    """What a succeeded job left: its files, and a model's id where they can be trained on or exported.

    A command that has ended by itself leaves its exit code, also where it failed.
    """

    model: str | None = None
    artifacts: list[Artifact] = []
    exit_code: int | None = None
    metrics_file: str | None = Field(None, description="The file with its metrics over the steps, as CSV.")


class JobError(BaseModel):
    """Why a job failed and what to do; `log_tail` is the end of its log."""

    code: str
    message: str
    hint: str | None = None
    log_tail: str | None = None


class JobView(BaseModel):
    """A job; times are RFC 3339 in UTC."""

    id: str
    object: Literal["job"] = "job"
    kind: Literal["training", "export", "evaluation", "command", "chat"] = "training"
    export_of: str | None = Field(
        None, description="The job whose result this export is made from, or this evaluation judges."
    )
    name: str
    owner: str
    team: str
    state: str
    reason: str | None = None
    stop_intent: str | None = Field(
        None, description="While stopping: kill, cancel, time_limit, pause, preempt or drain."
    )
    priority: str = Field("normal", description="Its class in the queue now.")
    kept: bool = Field(False, description="What it left is kept, whatever its age.")
    queue: QueueView | None = Field(None, description="What it is told while it is queued or waiting.")
    promised_start: str | None = Field(None, description="The first start that it was told.")
    attempt: int = 0
    phase: str | None = Field(None, description="What the trainer does now, e.g. loading_model, training.")
    spec: dict[str, Any] = Field(description="As it was posted.")
    request: dict[str, Any] | None = Field(
        None, description="The body in OpenAI's shape that the spec was made from, if it was."
    )
    resolved: dict[str, Any] | None = Field(None, description="What it trains with, and `why` for each value not set.")
    progress: Progress | None = None
    metrics: dict[str, Any] | None = Field(None, description="The latest value of each metric.")
    data: dict[str, Any] | None = Field(None, description="Counts of the prepared dataset by split.")
    devices: list[str] = []
    result: JobResult | None = None
    error: JobError | None = None
    depends_on: list[str] = []
    dataset_id: str | None = Field(None, description="The file it trains on; none until a dataset of the hub is here.")
    eval_dataset_id: str | None = Field(None, description="The file it evaluates on.")
    retry_of: str | None = None
    metadata: dict[str, str] = {}
    created_at: str
    queued_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    run_s: float = Field(0.0, description="Seconds on devices, in attempts that have ended.")

    @classmethod
    def of(cls, row: JobRow, depends_on: Sequence[str] = (), devices: Sequence[str] = ()) -> JobView:
        """The view of a stored row."""
        return cls(
            id=row.id,
            kind=cast(Literal["training", "export", "evaluation", "command", "chat"], row.kind),
            export_of=row.export_of,
            name=row.name,
            owner=row.owner,
            team=row.team,
            state=row.state,
            reason=row.reason,
            stop_intent=row.stop_intent,
            priority=PRIORITY_NAMES[row.priority],
            kept=row.kept,
            promised_start=_time(row.promised_start),
            attempt=row.attempt,
            phase=row.phase,
            spec=row.spec,
            request=row.request,
            resolved=row.resolved,
            progress=Progress.model_validate(row.progress) if row.progress else None,
            metrics=row.metrics,
            data=row.data,
            devices=list(devices),
            result=JobResult.model_validate(row.result) if row.result else None,
            error=JobError.model_validate(row.error) if row.error else None,
            depends_on=list(depends_on),
            dataset_id=row.dataset_id,
            eval_dataset_id=row.eval_dataset_id,
            retry_of=row.retry_of,
            metadata=row.user_metadata,
            created_at=rfc3339(row.created_at),
            queued_at=_time(row.queued_at),
            started_at=_time(row.started_at),
            ended_at=_time(row.ended_at),
            run_s=round(row.run_s, 3),
        )


class CheckpointView(BaseModel):
    """A complete checkpoint; `save_s` is how long saving took."""

    id: str
    object: Literal["checkpoint"] = "checkpoint"
    job_id: str
    step: int
    attempt: int
    bytes: int
    save_s: float
    metrics: dict[str, Any]
    created_at: str

    @classmethod
    def of(cls, row: CheckpointRow) -> CheckpointView:
        """The view of a stored row."""
        return cls(
            id=f"{row.job_id}:{row.step}",
            job_id=row.job_id,
            step=row.step,
            attempt=row.attempt,
            bytes=row.bytes,
            save_s=row.save_s,
            metrics=row.metrics,
            created_at=rfc3339(row.created_at),
        )


def _time(value: float | None) -> str | None:
    return None if value is None else rfc3339(value)
