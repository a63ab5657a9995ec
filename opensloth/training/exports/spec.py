"""What the worker tells an exporter: the `run.json` of an export. Imports no torch, for the worker's sake."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from opensloth.models.export_formats import Format, Quantization
from opensloth.training.run_spec import FILE_NAME


class PushTarget(BaseModel):
    """Where on the hub the result goes; its token comes over the secrets' pipe under the name `push`."""

    model_config = ConfigDict(extra="ignore")

    repo: str
    private: bool = True


class ExportRun(BaseModel):
    """One attempt of an export; paths are local, keys are the storage's.

    `model` is a local folder or a hub id; without `adapter` it is the result itself, trained in full.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    schema_version: int = 1
    job_id: str
    job_name: str
    attempt: int
    source_job_id: str
    source_name: str
    format: Format
    quantization: Quantization | None = None
    device: Literal["cuda", "cpu"]
    world_size: int = 1
    model: str
    base_name: str
    base_revision: str | None = None
    adapter: str | None = None
    memory_bytes: int | None = None
    """What it may use of its device; None: all of it."""
    push: PushTarget | None = None
    run_dir: str
    storage_url: str
    artifact_key: str

    @property
    def origin(self) -> str:
        """The folder that the source job wrote: its adapter, or its model."""
        return self.adapter or self.model


def read_export(run_dir: Path) -> ExportRun:
    """The specification in `run_dir`; raises FileNotFoundError, or pydantic's ValidationError."""
    return ExportRun.model_validate_json((run_dir / FILE_NAME).read_bytes())
