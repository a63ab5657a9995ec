"""examples/openai_sdk.py, as it stands there, from upload to chat."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.workers import running_worker

ROOT = Path(__file__).parents[3]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"chat_module": "tests.support.fake_engine", "chat_wait_s": 120.0})


def test_the_example_trains_and_chats(
    base_url: str, key: str, services: Services, settings: Settings, tmp_path: Path
) -> None:
    command = [sys.executable, "examples/openai_sdk.py", "--model", "tiny", "--suffix", "steps=3", "--every", "0.2"]
    environment = {**os.environ, "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": key}
    with running_worker(settings, tmp_path):
        done = subprocess.run(
            [*command, "--question", "words=3"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
        )
    assert done.returncode == 0, done.stderr
    trained, answer = done.stdout.strip().splitlines()[-2:]
    assert trained.startswith("trained ft:tiny:default:")
    assert services.models.get(trained.removeprefix("trained "), services.keys.authenticate(key)).job_id in done.stdout
    assert len(answer.split()) >= 3
