"""What the worker tells a chat engine: the `run.json` of its attempt. Imports no torch, for the worker's sake."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from opensloth.training.run_spec import FILE_NAME

TOKEN = "engine"
"""Name under which the secret of its clients comes over the secrets' pipe."""


class ChatRun(BaseModel):
    """One attempt of an engine; `model` is a local folder or a hub id, sizes are in tokens, times in seconds."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    job_id: str
    attempt: int
    device: Literal["cuda", "cpu"]
    model: str
    base_name: str
    adapter: str | None = None
    """A local adapter that is merged into the base, since it is not one to switch to."""
    memory_bytes: int | None = None
    """What it may use of its device; None: all of it."""
    run_dir: str
    storage_url: str
    address: str
    """Where it listens, on a port of its own choice."""
    context_tokens: int
    """The longest prompt with its answer; less where the model has less."""
    kv_tokens: int
    """For all rows together."""
    max_rows: int
    """Rows that decode at the same time."""
    max_waiting: int
    """Rows beyond those; more are turned away."""
    idle_s: float
    """It leaves when nobody has asked it anything for so long."""
    grace_s: float
    """What answers that are under way get when it has to stop."""


def read_chat(run_dir: Path) -> ChatRun:
    """The specification in `run_dir`; raises FileNotFoundError, or pydantic's ValidationError."""
    return ChatRun.model_validate_json((run_dir / FILE_NAME).read_bytes())
