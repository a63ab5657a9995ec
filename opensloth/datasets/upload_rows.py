"""The tables of uploads in parts: what is being sent, and the parts that have come."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from opensloth.database import Base


class UploadRow(Base):
    """One file that comes in parts; they lie in storage under `uploads/<id>/` until it ends."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    team: Mapped[str]
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    """What the whole file will have; kept free of the quota from the beginning."""
    status: Mapped[str] = mapped_column(index=True)
    """`pending`, `completed`, `cancelled` or `expired`."""
    keep_s: Mapped[int | None]
    """How long the file that comes of it stays; None: until it is deleted."""
    file_id: Mapped[str | None]
    """The file that came of it."""
    completed_with: Mapped[str | None]
    """Names the parts and their order, so that the same request again is answered alike."""
    created_at: Mapped[float]
    expires_at: Mapped[float]

    @property
    def storage_key(self) -> str:
        """Where its parts lie."""
        return f"uploads/{self.id}"


class UploadPartRow(Base):
    """One part; the order is said when the upload is completed."""

    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(index=True)
    bytes: Mapped[int]
    created_at: Mapped[float]
