"""What the worker tells a trainer: the file `run.json` in its run folder. Imports no torch, for the worker's sake."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from opensloth.integrations import WandbIntegration
from opensloth.opensloth_config import OpenSlothConfig, TrainingArguments

FILE_NAME = "run.json"
EVENTS_NAME = "events.jsonl"


class DatasetRef(BaseModel):
    """A dataset file on this host; `sha256` goes into the model card."""

    model_config = ConfigDict(extra="ignore")

    path: str
    name: str
    sha256: str
    container: Literal["jsonl", "json", "csv", "parquet"]


class RunSpec(BaseModel):
    """One attempt of a job; configs are resolved, paths are local, keys are the storage's.

    `checkpoint_interval_s` is in seconds; `resume_from` is the key of a complete checkpoint.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    schema_version: int = 1
    job_id: str
    job_name: str
    attempt: int
    opensloth_config: OpenSlothConfig
    training_args: TrainingArguments
    engine: Literal["transformers", "unsloth"]
    device: Literal["cuda", "cpu"]
    world_size: int = 1
    model: str
    base_name: str
    base_revision: str | None = None
    adapter: str | None = None
    dataset: DatasetRef
    eval_dataset: DatasetRef | None = None
    run_dir: str
    storage_url: str
    checkpoint_key: str
    artifact_key: str
    resume_from: str | None = None
    checkpoints: list[str] = []
    """Keys of the announced checkpoints, newest first; no other one counts."""
    checkpoint_interval_s: float = 600.0
    memory_bytes: int | None = None
    """What each rank may use of its device; None: all of it."""
    cache_dir: str | None = None
    """Where prepared datasets are kept for later jobs; nowhere if not set."""
    cache_bytes: int = 20 * 2**30
    plugins: list[str] = []
    reward_urls: list[str] = []
    rewards_dir: str | None = None
    reward_timeout_s: float = 60.0
    reward_python: bool = False
    wandb: WandbIntegration | None = None
    """The run that rank 0 reports metrics to; the key comes with the secrets."""

    @property
    def resumed_step(self) -> int:
        """The optimizer step that the checkpoint to resume from was taken after; 0 without one."""
        return checkpoint_step(self.resume_from) if self.resume_from else 0


def read_spec(run_dir: Path) -> RunSpec:
    """The specification in `run_dir`; raises FileNotFoundError, or pydantic's ValidationError."""
    return RunSpec.model_validate_json((run_dir / FILE_NAME).read_bytes())


def checkpoint_name(step: int) -> str:
    """The last part of a checkpoint's key; names sort by step."""
    return f"step-{step:08d}"


def checkpoint_step(key: str) -> int:
    """The step in a checkpoint's key; raises ValueError for a key of another form."""
    prefix, _, digits = key.rpartition("step-")
    if not digits.isdigit() or (prefix and not prefix.endswith("/")):
        raise ValueError(f"{key!r} is no checkpoint key")
    return int(digits)
