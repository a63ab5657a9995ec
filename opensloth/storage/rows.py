"""The table of what is to be removed from storage."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from opensloth.database import Base


class StorageDeletionRow(Base):
    """A key that nothing refers to any more; the row goes once the storage has forgotten it."""

    __tablename__ = "storage_deletions"

    key: Mapped[str] = mapped_column(primary_key=True)
    asked_at: Mapped[float]
