"""Data and models of the hub through a real worker: trained on, killed in the middle, and tokens that stay secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import MetaData, select

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.fake_hub import FakeHub, serve_hub
from tests.support.jobs import ADMIN, add_model, body, wait_for, wait_for_state
from tests.support.tiny_model import make_tiny_model
from tests.support.workers import running_worker

TOKEN = "hf_the+right/token"
ROWS = "".join(json.dumps({"prompt": f"Say {n}.", "completion": f"{n}"}) + "\n" for n in range(8)).encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serve_hub(TOKEN) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
        yield served


@pytest.mark.slow
def test_a_dataset_of_three_jobs_is_fetched_once_and_again_by_the_next_worker_if_one_is_killed(
    services: Services, settings: Settings, tmp_path: Path, hub: FakeHub
) -> None:
    hub.publish("datasets/org/rows", {"train.jsonl": ROWS})
    hub.open.clear()
    add_model(services)
    with ThreadPoolExecutor() as pool:
        submitted = list(pool.map(lambda _: services.jobs.submit(body(services, "org/rows"), ADMIN)[0], range(3)))
    with running_worker(settings, tmp_path) as worker:
        wait_for(lambda: hub.downloads)
        worker.kill()
        assert {services.jobs.get(job.id, ADMIN).state for job in submitted} == {"waiting"}
        hub.open.set()
        worker.start()
        jobs = [wait_for_state(services, job.id, "succeeded", "failed", timeout=90) for job in submitted]
    assert [job.state for job in jobs] == ["succeeded"] * 3, [job.error for job in jobs]
    assert hub.downloads == ["train.jsonl"] * 2
    (file,) = [file for file in services.files.list(ADMIN, limit=10)[0] if file.purpose == "fine-tune"]
    assert {job.dataset_id for job in jobs} == {file.id}
    assert file.source == "org/rows"


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_job_trains_a_gated_model_on_gated_data_and_its_token_is_nowhere(
    services: Services, settings: Settings, tmp_path: Path, hub: FakeHub
) -> None:
    folder = make_tiny_model(tmp_path / "tiny")
    hub.publish("models/org/tiny", {file.name: file.read_bytes() for file in folder.iterdir()}, gated=True)
    hub.publish("datasets/org/rows", {"train.jsonl": ROWS}, gated=True)
    services.secrets.put("hf", TOKEN, ADMIN)
    asked = body(services, "org/rows", "a job", secrets={"hub": "hf"}, training_args={"max_steps": 1})
    asked["opensloth_config"]["fast_model_args"]["model_name"] = "org/tiny"
    without = {**asked, "dataset": "org/public", "secrets": {}}
    hub.publish("datasets/org/public", {"train.jsonl": ROWS})
    patient = {"lease_s": 60.0, "lease_renew_s": 2.0}  # trainers keep the machine busy while they import
    real = settings.model_copy(update={"trainer_module": "opensloth.training.main", **patient})
    with running_worker(real, tmp_path):
        made = [services.jobs.submit(spec, ADMIN)[0].id for spec in (asked, without)]
        jobs = [wait_for_state(services, job_id, "succeeded", "failed", timeout=240) for job_id in made]
    assert jobs[0].state == "succeeded", jobs[0].error
    adapter = services.storage.local_path(f"jobs/{made[0]}/artifacts/adapter_config.json")
    assert adapter is not None
    assert json.loads(adapter.read_text())["base_model_name_or_path"] == "org/tiny"
    assert (jobs[1].state, jobs[1].error is not None) == ("failed", True)
    assert TOKEN not in _everything(services, tmp_path)


def _everything(services: Services, folder: Path) -> str:
    """Every value in the database and every file that the service, its worker and its processes wrote."""
    metadata = MetaData()
    with services.database.read() as session:
        metadata.reflect(session.connection())
        rows = [[list(row) for row in session.execute(select(table))] for table in metadata.sorted_tables]
    files = [file.read_bytes().decode("latin-1") for file in folder.rglob("*") if file.is_file()]
    return json.dumps(rows, default=str, ensure_ascii=False) + "\n".join(files)
