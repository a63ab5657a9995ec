"""The table of base models and results."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from opensloth.database import Base


class ModelRow(Base):
    """A base model, or what a job made."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    """`base` or `result`."""
    status: Mapped[str]
    """`importing`, `ready` or `failed`."""
    owner: Mapped[str]
    team: Mapped[str | None]
    """The team that sees a result; None: everybody, as bases."""
    source: Mapped[str]
    """Where it came from: a directory, a GGUF file, a package, a hub id, or a job's id."""
    secret: Mapped[str | None]
    """Name of the owner's secret that holds the token for a gated model of the hub."""
    storage_key: Mapped[str | None]
    """The tree in storage; None until it is there."""
    base_id: Mapped[str | None]
    """What a result's adapter belongs to."""
    job_id: Mapped[str | None] = mapped_column(index=True)
    lora: Mapped[dict[str, Any] | None]
    """`adapter_config.json` of a result that is an adapter."""
    bytes: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[float]
    importer: Mapped[str | None]
    """The host that imports it at the moment."""
    import_until: Mapped[float | None]
