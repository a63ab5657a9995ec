"""What a worker tells the guard of a command: the file `run.json` in its run folder."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class CommandRun(BaseModel):
    """One attempt at a command; `uid` is None where the worker's own account runs it."""

    model_config = ConfigDict(extra="ignore")

    job_id: str
    command: list[str]
    directory: str
    environment: dict[str, str]
    uid: int | None = None
    gid: int | None = None
    groups: list[int] = []
    idle_limit_s: float | None = None
    devices: list[str] = []
    """UUIDs of its GPUs."""
