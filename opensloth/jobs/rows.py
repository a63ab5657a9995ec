"""The tables of jobs, their attempts, checkpoints and idempotency keys."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, false
from sqlalchemy.orm import Mapped, mapped_column

from opensloth.database import Base


class JobRow(Base):
    """One job. `state` is written by `opensloth.jobs.transitions` alone."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_queue", "state", "priority", "queued_at"),
        Index("ix_jobs_recent", "created_at", "id"),
        Index("ix_jobs_team_recent", "team", "created_at", "id"),
        Index("ix_jobs_owner_recent", "owner", "created_at", "id"),
        Index("ix_jobs_state_recent", "state", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(default="training", server_default="training")
    """`training`, `export`, `evaluation`, `command` or `chat`."""
    export_of: Mapped[str | None] = mapped_column(index=True)
    """The job whose result an export is made from, or an evaluation judges."""
    name: Mapped[str]
    owner: Mapped[str]
    team: Mapped[str] = mapped_column(default="default", server_default="default")
    """The owner's team when it was submitted; its members see the job."""
    state: Mapped[str]
    reason: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of the present or last attempt; every write by a worker names it."""
    spec: Mapped[dict[str, Any]]
    schema_version: Mapped[int]
    request: Mapped[dict[str, Any] | None]
    """The body in OpenAI's shape that `spec` was made from; None where `spec` itself was posted."""
    resolved: Mapped[dict[str, Any] | None]
    user_metadata: Mapped[dict[str, Any]] = mapped_column("metadata")

    priority: Mapped[int]
    """Class rank: 0 low, 1 normal, 2 high, 3 urgent."""
    own_rank: Mapped[int] = mapped_column(default=0, server_default="0")
    """Order among the owner's own jobs of one class, lowest first."""
    device_count: Mapped[int]
    memory_bytes: Mapped[int | None]
    """What it needs on each device, asked or estimated; None: not known, then it takes whole devices."""
    exclusive: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It lets no other job onto its devices."""
    shape: Mapped[str | None]
    """What jobs of the same memory and speed have in common; see ShapeRow."""
    expected_s: Mapped[float | None]
    """How long it is expected to hold devices in all; None: nobody knows."""
    promised_start: Mapped[float | None]
    """The start that was expected at submission."""
    time_limit_s: Mapped[float | None]
    max_retries: Mapped[int]
    retries: Mapped[int] = mapped_column(default=0)
    """Charged retries so far."""
    dataset_id: Mapped[str | None] = mapped_column(index=True)
    """None for an export, and until a dataset of the hub is here."""
    eval_dataset_id: Mapped[str | None]
    model_id: Mapped[str] = mapped_column(index=True)
    """As posted: a registered model, a hub id or an earlier job's id."""
    retry_of: Mapped[str | None]
    kept: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Its checkpoints, logs and result stay, whatever their age."""

    created_at: Mapped[float]
    queued_at: Mapped[float | None]
    started_at: Mapped[float | None]
    """Of the first attempt's first step."""
    ended_at: Mapped[float | None]
    not_before: Mapped[float | None]
    run_s: Mapped[float] = mapped_column(default=0.0)
    """Seconds on devices in ended attempts, for the time limit."""

    host_id: Mapped[str | None]
    lease_until: Mapped[float | None]
    taken_up: Mapped[bool] = mapped_column(default=False)
    stop_intent: Mapped[str | None]

    phase: Mapped[str | None]
    progress: Mapped[dict[str, Any] | None]
    metrics: Mapped[dict[str, Any] | None]
    data: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]


class DependencyRow(Base):
    """`job_id` waits until `depends_on` has succeeded."""

    __tablename__ = "job_dependencies"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    depends_on: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)


class PullWaitRow(Base):
    """A job's `dataset` or `eval_dataset` is fetched from the hub; it waits until it is there."""

    __tablename__ = "job_dataset_pulls"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    field: Mapped[str] = mapped_column(primary_key=True)
    """`dataset` or `eval_dataset`."""
    pull_id: Mapped[str] = mapped_column(ForeignKey("dataset_pulls.id"), index=True)


class AttemptRow(Base):
    """One attempt of a job on one host."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    host_id: Mapped[str]
    device_ids: Mapped[list[Any]]
    placed_at: Mapped[float]
    first_step_at: Mapped[float | None]
    """End of its first step."""
    ended_at: Mapped[float | None]
    outcome: Mapped[str | None]
    promised_end: Mapped[float | None]
    """It was let past a job in front of it because it said that it would be gone by then."""
    memory_bytes: Mapped[int | None]
    """What it was given on each device; None: whole devices."""
    peak_bytes: Mapped[int | None]
    """The most that a rank was seen to use on its device."""
    resumed_step: Mapped[int | None]
    """The step of the checkpoint it started from; points of earlier attempts beyond it are left out of metrics."""
    records_read: Mapped[int] = mapped_column(default=0)
    """Bytes of `events.jsonl` that are in the database; written with the events, so that none comes twice."""
    processes: Mapped[list[Any]] = mapped_column(default=list)
    """[{"pid", "started"}] of the ranks, compared before anything is killed."""


class CheckpointRow(Base):
    """A complete checkpoint in storage."""

    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    key: Mapped[str]
    bytes: Mapped[int]
    save_s: Mapped[float]
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class IdempotencyRow(Base):
    """A client's key for one submission: the same key and body give the same job."""

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[float]


def suffix_of(row: JobRow) -> str:
    """What tells people this job's model from others: the suffix in OpenAI's shape, else the job's name."""
    return str((row.request or {}).get("suffix") or row.name)
