"""What workers with real trainers share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opensloth.settings import Settings


@pytest.fixture
def patient_settings(migrated_file: Path, valkey_url: str, tmp_path: Path) -> Settings:
    """Settings of a worker whose trainers load a model and take real steps, with leases as on any box."""
    shutil.copyfile(migrated_file, tmp_path / "opensloth.db")
    return Settings(
        home=tmp_path / "home",
        database_url=f"sqlite:///{tmp_path / 'opensloth.db'}",
        redis_url=valkey_url,
        storage_url=str(tmp_path / "storage"),
        host_id="box",
        devices="cpu:2",
        poll_s=0.3,
        heartbeat_s=0.5,
    )
