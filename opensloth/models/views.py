"""Models as clients see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from opensloth.models.names import parse_checkpoint_model
from opensloth.models.rows import ModelRow


@dataclass(frozen=True)
class CheckpointPlace:
    """A checkpoint of a job: whose it is, where it lies, and the model that the job started from."""

    owner: str
    team: str
    key: str
    base: str
    bytes: int
    created_at: float


class ModelView(BaseModel):
    """A model: OpenAI's fields and ours; `created` in seconds since 1970."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    status: Literal["importing", "ready", "failed"]
    kind: Literal["base", "result", "alias", "checkpoint"]
    source: str
    base: str | None = None
    job_id: str | None = None
    error: str | None = None
    bytes: int | None = None

    @classmethod
    def of(cls, row: ModelRow) -> ModelView:
        """The view of a stored row."""
        return cls.model_validate(
            {
                "id": row.id,
                "created": int(row.created_at),
                "owned_by": row.owner,
                "status": row.status,
                "kind": row.kind,
                "source": row.source,
                "base": row.base_id,
                "job_id": row.job_id,
                "error": row.error,
                "bytes": row.bytes,
            }
        )

    @classmethod
    def of_checkpoint(cls, name: str, found: CheckpointPlace) -> ModelView:
        """The view of a checkpoint by its name."""
        job_id, _ = parse_checkpoint_model(name) or ("", 0)
        return cls(
            id=name,
            created=int(found.created_at),
            owned_by=found.owner,
            status="ready",
            kind="checkpoint",
            source=job_id,
            base=found.base,
            job_id=job_id,
            bytes=found.bytes,
        )
