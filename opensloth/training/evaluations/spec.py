"""What the worker tells an evaluator: the `run.json` of an evaluation. Imports no torch, for the worker's sake."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from opensloth.training.run_spec import FILE_NAME, DatasetRef


class GraderRun(BaseModel):
    """A reward under the name that the summary has for it."""

    label: str
    reward: dict[str, Any]


class EvaluationRun(BaseModel):
    """One attempt of an evaluation; paths are local, keys are the storage's.

    Without `adapter`, `model` is the result itself, trained in full, and `base_model` what it was trained from.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    schema_version: int = 1
    job_id: str
    job_name: str
    attempt: int
    source_job_id: str
    source_name: str
    judge: Literal["graders", "preferences"]
    graders: list[GraderRun] = []
    beta: float = 0.1
    """Of DPO's implicit reward."""
    rows: int
    """At most so many, evenly from the whole."""
    max_completion_tokens: int
    temperature: float = 0.0
    seed: int = 0
    dataset: DatasetRef
    training_type: str
    """By whose forms the rows are read."""
    dataset_form: str | None = None
    eval_split: float | None = None
    """Share of the rows that the job kept for evaluation, where `dataset` is what it was trained on."""
    split_seed: int = 0
    device: Literal["cuda", "cpu"]
    world_size: int = 1
    model: str
    base_model: str | None = None
    base_name: str
    adapter: str | None = None
    memory_bytes: int | None = None
    """What it may use of its device; None: all of it."""
    reward_urls: list[str] = []
    rewards_dir: str | None = None
    reward_timeout_s: float = 60.0
    reward_python: bool = False
    run_dir: str
    storage_url: str
    artifact_key: str


def read_evaluation(run_dir: Path) -> EvaluationRun:
    """The specification in `run_dir`; raises FileNotFoundError, or pydantic's ValidationError."""
    return EvaluationRun.model_validate_json((run_dir / FILE_NAME).read_bytes())
