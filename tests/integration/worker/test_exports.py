"""Exports through a real worker and real export processes: files, models, pushes, and secrets that stay secret."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import MetaData, select

from opensloth.jobs.spec import parse_job_spec
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.exports import finished_job, make_adapter
from tests.support.fake_hub import FakeHub, serve_hub
from tests.support.jobs import ADMIN, add_file, body, wait_for_state
from tests.support.tiny_model import make_tiny_model
from tests.support.workers import running_worker

TOKEN = "hf_the+right/token"
WRONG = "hf_a wrong+one"

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve_hub(TOKEN) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


@pytest.fixture
def source(services: Services, tmp_path: Path) -> str:
    base = make_tiny_model(tmp_path / "base")
    return finished_job(services, make_adapter(base, tmp_path / "adapter"), base)


def test_exports_are_checked_kept_pushed_and_tell_no_secret(
    services: Services, settings: Settings, tmp_path: Path, source: str, hub: FakeHub
) -> None:
    services.secrets.put("hf", TOKEN, ADMIN)
    services.secrets.put("stale", WRONG, ADMIN)
    push = {"repo": "team/tone", "secret": "hf"}
    asked = {
        "gguf": {"format": "gguf", "quantization": "q8_0", "push_to_hub": push},
        "refused": {"format": "adapter", "push_to_hub": {**push, "secret": "stale"}},
        "merged": {"format": "merged_16bit"},
    }
    made = {name: services.exports.submit(source, spec, ADMIN)[0].id for name, spec in asked.items()}
    with running_worker(settings, tmp_path):
        jobs = {
            name: wait_for_state(services, job_id, "succeeded", "failed", timeout=240) for name, job_id in made.items()
        }
    gguf, refused, merged = jobs["gguf"], jobs["refused"], jobs["merged"]

    assert gguf.state == "succeeded", gguf.error
    assert gguf.result is not None
    assert gguf.result.model is None
    assert (gguf.metrics or {})["check/kl"] < 0.02
    assert {artifact.name for artifact in gguf.result.artifacts} == {"README.md", "tone-q8_0.gguf"}
    pushed = hub.files["team/tone"]
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in pushed.items()}
    assert hashes == {artifact.name: artifact.sha256 for artifact in gguf.result.artifacts}
    assert hub.repositories["team/tone"]["visibility"] == "private"
    assert (gguf.kind, gguf.export_of, gguf.progress and gguf.progress.percent) == ("export", source, 100.0)
    moves = [event.data["to"] for event in services.events.list(gguf.id, limit=1000) if event.type == "state"]
    assert moves == ["queued", "starting", "running", "succeeded"]

    assert merged.state == "succeeded", merged.error
    assert merged.result is not None
    assert services.models.get(merged.id, ADMIN).base == "tiny"
    next_job = body(services, add_file(services), "after the merge")
    next_job["opensloth_config"]["fast_model_args"]["model_name"] = merged.id
    parse_job_spec(next_job)
    assert services.jobs.submit(next_job, ADMIN)[0].resolved is not None

    assert (refused.state, refused.reason, refused.attempt) == ("failed", "push_refused", 1)
    assert refused.error is not None
    assert "401" in refused.error.message
    for secret in (TOKEN, WRONG):
        assert secret not in _everything(services, tmp_path)
    assert "[secret]" in _everything(services, tmp_path)


def _everything(services: Services, folder: Path) -> str:
    """Every value in the database and every file that the service, its worker and its processes wrote."""
    metadata = MetaData()
    with services.database.read() as session:
        metadata.reflect(session.connection())
        rows = [[list(row) for row in session.execute(select(table))] for table in metadata.sorted_tables]
    files = [file.read_bytes().decode("latin-1") for file in folder.rglob("*") if file.is_file()]
    return json.dumps(rows, default=str, ensure_ascii=False) + "\n".join(files)
