"""The tables of files, of what their check found, and of the fetching of datasets from the hub."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from opensloth.database import Base


class FileRow(Base):
    """One file, uploaded or fetched from the hub; its content lies in storage under `files/<id>/content`."""

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
    source: Mapped[str | None]
    """The dataset of the hub that it was fetched from, as `org/name:config[split]`; None for an upload."""
    commit: Mapped[str | None]
    """The commit of that dataset."""
    created_at: Mapped[float]
    expires_at: Mapped[float | None] = mapped_column(index=True)
    """When it goes by itself; None: not before somebody deletes it."""

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


class DatasetPullRow(Base):
    """The fetching of one dataset from the hub; jobs that name the dataset wait for it."""

    __tablename__ = "dataset_pulls"
    __table_args__ = (
        Index(
            "ix_dataset_pulls_open",
            *("owner", "source", "secret"),
            unique=True,
            sqlite_where=text("status = 'importing'"),
            postgresql_where=text("status = 'importing'"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    team: Mapped[str] = mapped_column(default="default", server_default="default")
    """The owner's team when it was asked for; the file is theirs."""
    source: Mapped[str]
    """As it was asked for: `org/name@revision:config[split]`."""
    secret: Mapped[str] = mapped_column(default="", server_default="")
    """Name of the owner's secret that holds the token; empty for none."""
    status: Mapped[str] = mapped_column(index=True)
    """`importing`, `ready` or `failed`."""
    file_id: Mapped[str | None]
    """What came of it; an earlier file where the hub still has the same commit."""
    reason: Mapped[str | None]
    """Why it failed, as the reason of a job."""
    error: Mapped[str | None]
    created_at: Mapped[float]
    importer: Mapped[str | None]
    """The host that fetches it at the moment."""
    import_until: Mapped[float | None]
