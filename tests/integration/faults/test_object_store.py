"""A real trainer whose storage is an S3 server: killed after a checkpoint, it goes on and its result is downloaded."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.exports import register_base
from tests.support.jobs import ADMIN, add_file, body, wait_for, wait_for_state
from tests.support.s3 import make_bucket, point_to, s3_server
from tests.support.tiny_model import make_tiny_model
from tests.support.training import sft_rows
from tests.support.workers import running_worker, trainers_of

STEPS = 200


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_real_job_goes_on_from_a_checkpoint_in_s3_and_its_result_is_downloaded(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as url:
        point_to(monkeypatch, url)
        make_bucket(url, "team")
        real = {"trainer_module": "opensloth.training.main", "lease_s": 30.0, "lease_renew_s": 5.0}
        there = settings.model_copy(update={**real, "storage_url": "s3://team/opensloth", "devices": "cpu:1"})
        services = Services.make(there)
        register_base(services, make_tiny_model(tmp_path / "tiny"))
        arguments = {"max_steps": STEPS, "per_device_train_batch_size": 2, "save_steps": 20, "logging_steps": 1}
        spec = body(services, add_file(services, sft_rows(48)), "s3", training_args=arguments)
        job_id = services.jobs.submit(spec, ADMIN)[0].id
        with running_worker(there, tmp_path):
            saved = wait_for(lambda: services.jobs.checkpoints(job_id, ADMIN), timeout=300)
            for trainer in trainers_of(job_id):
                trainer.kill()
            job = wait_for_state(services, job_id, "succeeded", "failed", timeout=400)
            assert (job.state, job.attempt) == ("succeeded", 2), job.error
        started = [event for event in services.events.list(job_id, limit=10_000) if event.type == "started"]
        assert max(point.step for point in saved) <= started[1].data["resumed_step"] < STEPS
        (series,) = services.jobs.metrics(job_id, ADMIN, ["loss"])
        assert [point["step"] for point in series["points"]] == list(range(1, STEPS + 1))
        key = services.keys.create("tester", "admin")[1]
        with TestClient(create_app(there), headers={"Authorization": f"Bearer {key}"}) as client:
            files = client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
            whole = client.get(f"/v1/jobs/{job_id}/artifacts/all.zip")
            with zipfile.ZipFile(io.BytesIO(whole.content)) as packed:
                assert packed.testzip() is None
                assert {name.partition("/")[2]: info.file_size for name, info in packed.NameToInfo.items()} == {
                    file["name"]: file["bytes"] for file in files
                }
                assert f"{job_id}/adapter_model.safetensors" in packed.namelist()
        services.database.engine.dispose()
