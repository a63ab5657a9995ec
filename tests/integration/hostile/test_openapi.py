"""schemathesis, by all its checks, over the document that the API gives of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.http_server import serve
from tests.support.jobs import ADMIN, submit

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_nothing_that_the_document_allows_makes_the_server_fail_or_answer_as_it_does_not_say(
    settings: Settings, services: Services, tmp_path: Path
) -> None:
    job_id = submit(services)
    services.control.cancel(job_id, ADMIN)  # a job that goes on has a log that goes on
    key = services.keys.create("admin", "admin")[1]
    # A chat that no worker will ever serve is answered soon.
    with serve(settings.model_copy(update={"chat_wait_s": 0.1})) as url:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
            *("--header", f"Authorization: Bearer {key}", "--workers", "1", "--seed", "1", "--max-examples", "3"),
            *("--phases", "examples,coverage,fuzzing", "--generation-database", "none", "--request-timeout", "60"),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2300)
    assert done.returncode == 0, done.stdout[-6000:]
