"""The objects of fine-tuning as OpenAI's SDK reads them; `opensloth` holds what OpenAI has no word for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

Status = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
AutoInt = Literal["auto"] | int | None
AutoFloat = Literal["auto"] | float | None


class JobError(BaseModel):
    """Why a job failed; `param` is the file at fault, if one is."""

    code: str
    message: str
    param: str | None


class HyperparametersView(BaseModel):
    """What the job trains with as far as it is decided; null: it has no such number."""

    n_epochs: AutoInt
    batch_size: AutoInt
    learning_rate_multiplier: AutoFloat


class WandbView(BaseModel):
    """The run at Weights & Biases that a job reports to."""

    project: str
    name: str | None = None
    entity: str | None = None
    tags: list[str] | None = None


class IntegrationView(BaseModel):
    """Where a job's metrics go besides."""

    type: Literal["wandb"]
    wandb: WandbView


class FineTuningJob(BaseModel):
    """A training job; times are in seconds since 1970."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    status: Status
    model: str = Field(description="What is trained: the model that was named, or what that alias stands for.")
    fine_tuned_model: str | None
    organization_id: str = Field(description="The owner's team.")
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: JobError | None
    hyperparameters: HyperparametersView
    method: dict[str, Any] | None = Field(description="Null for a training type that OpenAI does not have.")
    seed: int
    integrations: list[IntegrationView]
    metadata: dict[str, str] | None
    opensloth: dict[str, Any]


class FineTuningJobEvent(BaseModel):
    """Something that happened to a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class CheckpointMetrics(BaseModel):
    """What was measured at a checkpoint; what was not is null."""

    step: float
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class FineTuningJobCheckpoint(BaseModel):
    """A checkpoint of a job, which can be chatted with and trained on under its model's name."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: CheckpointMetrics
