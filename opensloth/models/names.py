"""The names of what jobs make: `ft:base:team:suffix:id`, and `...:ckpt-step-N` for a checkpoint."""

from __future__ import annotations

import re

JOB_ID = re.compile(r"ftjob-[0-9a-f]+")
ALIAS = re.compile(r"[A-Za-z0-9][\w.:/-]{0,127}")
"""What another name of a model may look like, so that scripts may say `gpt-4o-mini-2024-07-18` or `org/name`."""

_CHECKPOINT = re.compile(r"ft:.*:(?P<id>[0-9a-f]{24}):ckpt-step-(?P<step>\d{1,18})", re.DOTALL)
_SUFFIX_LENGTH = 64


def result_name(base_id: str, team: str, suffix: str, job_id: str) -> str:
    """The name of the model that a job makes; its last part is that of the job's id, so that no other has it."""
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", suffix).strip("-")[:_SUFFIX_LENGTH]
    return f"ft:{base_id.rsplit('/', 1)[-1]}:{team}:{slug}:{job_id.removeprefix('ftjob-')}"


def checkpoint_model_name(result: str, step: int) -> str:
    """The name of a job's checkpoint as a model; `result` is that of what the job makes."""
    return f"{result}:ckpt-step-{step}"


def parse_checkpoint_model(name: str) -> tuple[str, int] | None:
    """The job and the step that such a name stands for; None for every other name."""
    found = _CHECKPOINT.fullmatch(name)
    return (f"ftjob-{found['id']}", int(found["step"])) if found else None
