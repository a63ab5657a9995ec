"""Where the engines that chat run: for each model and team the job that holds it, and how the API reaches it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from opensloth.database import Base


class ChatEngineRow(Base):
    """The newest engine of a model that a team has started; it may be gone."""

    __tablename__ = "chat_engines"

    key: Mapped[str] = mapped_column(primary_key=True)
    """What it holds: the storage key or hub id of the base, and of an adapter that is merged into it."""
    team: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    attempt: Mapped[int | None]
    """Of the job, to which the rest belongs."""
    address: Mapped[str | None]
    port: Mapped[int | None]
    """None until it listens."""
    token: Mapped[str | None]
    """The secret of its clients; new for each attempt."""
    fingerprint: Mapped[str | None]


def announce(session: Session, job_id: str, attempt: int, address: str, token: str) -> None:
    """An attempt of the engine begins on the host with this address; it listens later."""
    values = {"attempt": attempt, "address": address, "token": token, "port": None, "fingerprint": None}
    session.execute(update(ChatEngineRow).where(ChatEngineRow.job_id == job_id).values(**values))


def listening(session: Session, job_id: str, attempt: int, data: dict[str, Any]) -> None:
    """The engine of this attempt listens now."""
    mine = (ChatEngineRow.job_id == job_id, ChatEngineRow.attempt == attempt)
    values = {"port": int(data["port"]), "fingerprint": str(data.get("fingerprint") or "") or None}
    session.execute(update(ChatEngineRow).where(*mine).values(**values))
