"""The table of events."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from opensloth.database import Base


class EventCounterRow(Base):
    """The last `seq` of a job; whoever appends holds this row until the commit, so that numbers commit in order."""

    __tablename__ = "event_counters"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    last_seq: Mapped[int]


class EventRow(Base):
    """One event of a job; `seq` counts from 1 without gaps, in the order of the commits."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_type", "job_id", "type", "seq"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    type: Mapped[str]
    level: Mapped[str]
    time: Mapped[float]
    message: Mapped[str]
    data: Mapped[dict[str, Any]]
