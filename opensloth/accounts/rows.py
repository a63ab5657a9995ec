"""The tables of people: teams, users, keys, secrets, what they used, and who did what."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from opensloth.database import Base

DEFAULT_TEAM = "default"
"""The team of everybody whom no admin put into another one."""


TEAM_HOLDER = "team:"
"""Before the name of a team that holds a secret; no user's name has a colon."""


class _Limits:
    """What a team or a user may have; None is without limit."""

    share: Mapped[float] = mapped_column(default=1.0)
    """Weight among the teams, or among the users of a team."""
    max_devices: Mapped[int | None]
    """Devices at once."""
    max_queued: Mapped[int | None]
    """Jobs that wait, are queued or are paused."""
    device_hours: Mapped[float | None]
    """In a calendar month (UTC)."""
    max_bytes: Mapped[int | None]
    """Stored files, checkpoints and results."""
    requests_per_minute: Mapped[int | None]
    """Of each key; None: what the setting says. A user's own goes before the team's."""


class TeamRow(_Limits, Base):
    """People who see each other's work."""

    __tablename__ = "teams"

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[float]


class UserRow(_Limits, Base):
    """A person or a program; jobs, files and models carry the name."""

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(primary_key=True)
    team: Mapped[str] = mapped_column(ForeignKey("teams.name"), index=True)
    role: Mapped[str]
    """`admin`, `member` or `viewer`."""
    account: Mapped[str | None]
    """The account on the workers' hosts under which this user's own commands run; None: none may."""
    created_at: Mapped[float]
    disabled_at: Mapped[float | None]
    """From then on no key of the user is accepted."""


class UsageRow(Base):
    """Device-seconds of one user on one day (UTC), of ended attempts; fair share and monthly quotas read it."""

    __tablename__ = "usage"

    owner: Mapped[str] = mapped_column(primary_key=True)
    team: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[int] = mapped_column(primary_key=True)
    """Days since 1970."""
    device_s: Mapped[float]


class AuditRow(Base):
    """One thing that somebody did; rows are never changed."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_recent", "time", "id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    time: Mapped[float]
    actor: Mapped[str] = mapped_column(index=True)
    team: Mapped[str]
    key_id: Mapped[str | None]
    action: Mapped[str]
    """As `job.cancel`."""
    object_id: Mapped[str]
    """What it was done to."""
    data: Mapped[dict[str, Any]]


class ApiKeyRow(Base):
    """One API key; only its hash is kept, the key itself is shown once."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    """The person or program it speaks for; jobs, files and models carry this name."""
    role: Mapped[str]
    """`admin`, `member` or `viewer`: the most that this key may do; the user's own role bounds it."""
    scopes: Mapped[list[Any] | None]
    """What it is for, as `jobs:write`; None: all that the role allows."""
    prefix: Mapped[str]
    """The first characters, so that people can tell their keys apart."""
    sha256: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    last_used_at: Mapped[float | None]
    """To the hour, so that reading does not mean writing."""
    requests_per_minute: Mapped[int | None]
    """None: what holds for its user."""


class SecretRow(Base):
    """One secret of one owner, encrypted; see secrets.py."""

    __tablename__ = "secrets"

    owner: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    sealed: Mapped[str]
    """Nonce and ciphertext in base64."""
    created_at: Mapped[float]
    updated_at: Mapped[float]
