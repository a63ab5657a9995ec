"""The tables of uploaded files and of what their check found."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from opensloth.database import Base


class FileRow(Base):
    """One uploaded file; its content lies in storage under `files/<id>/content`."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_recent", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    team: Mapped[str] = mapped_column(default="default", server_default="default")
    """The owner's team when it came; its members see the file."""
    filename: Mapped[str]
    """As the client called it, without folders; never part of a path here."""
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column()
    sha256: Mapped[str] = mapped_column(index=True)
    container: Mapped[str]
    """`jsonl`, `json`, `csv` or `parquet`."""
    created_at: Mapped[float]

    @property
    def storage_key(self) -> str:
        """Where the content lies in storage."""
        return f"files/{self.id}/content"


class FileCheckRow(Base):
    """What the check of one content found, for every file that has this content."""

    __tablename__ = "file_checks"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    """The rules that were applied; see `opensloth.datasets.report.CHECK_VERSION`."""
    check: Mapped[dict[str, Any]]
    created_at: Mapped[float]
