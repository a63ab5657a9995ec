"""The table of API keys."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from opensloth.database import Base


class ApiKeyRow(Base):
    """One API key; only its hash is kept, the key itself is shown once."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    """The person or program it speaks for; jobs, files and models carry this name."""
    role: Mapped[str]
    """`admin` or `member`."""
    prefix: Mapped[str]
    """The first characters, so that people can tell their keys apart."""
    sha256: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class SecretRow(Base):
    """One secret of one owner, encrypted; see secrets.py."""

    __tablename__ = "secrets"

    owner: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    sealed: Mapped[str]
    """Nonce and ciphertext in base64."""
    created_at: Mapped[float]
    updated_at: Mapped[float]
