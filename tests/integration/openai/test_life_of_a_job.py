"""A fine-tuning job that runs, watched by the openai package, sync and async."""

from __future__ import annotations

import asyncio
import csv
import io
from pathlib import Path

import openai
import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.jobs import ADMIN, wait_for
from tests.support.openai_strict import Checker
from tests.support.workers import running_worker


def test_a_job_is_followed_to_its_model(
    client: openai.OpenAI, services: Services, settings: Settings, training_file: str, tmp_path: Path
) -> None:
    jobs = client.fine_tuning.jobs
    job = jobs.create(
        model="tiny",
        training_file=training_file,
        suffix="Support-Bot",
        metadata={"run": "7"},
        extra_body={"opensloth": {"name": "steps=6 save=2"}},
    )
    assert (job.status, job.fine_tuned_model, job.finished_at, job.result_files) == ("queued", None, None, [])
    with running_worker(settings, tmp_path):
        done = wait_for(lambda: found if (found := jobs.retrieve(job.id)).finished_at else None, 120)
    assert (done.status, done.error, done.estimated_finish) == ("succeeded", None, None)
    assert done.trained_tokens == 60
    assert done.fine_tuned_model == f"ft:tiny:default:Support-Bot:{job.id.removeprefix('ftjob-')}"

    events = list(jobs.list_events(job.id, limit=3))
    assert [event.created_at for event in events] == sorted((event.created_at for event in events), reverse=True)
    metrics = [event.data for event in events if event.type == "metrics"]
    assert [data["step"] for data in metrics] == [6, 5, 4, 3, 2, 1]
    assert metrics[0]["train_loss"] == pytest.approx(1 / 6)
    assert {event.type for event in events} == {"message", "metrics"}

    checkpoints = list(jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [6, 4, 2]
    assert checkpoints[0].fine_tuned_model_checkpoint == f"{done.fine_tuned_model}:ckpt-step-6"

    rows = list(csv.DictReader(io.StringIO(client.files.content(done.result_files[0]).text)))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert float(rows[1]["train_loss"]) == 0.5
    file = client.files.retrieve(done.result_files[0])
    assert (file.purpose, file.status) == ("fine-tune-results", "processed")
    with pytest.raises(openai.BadRequestError) as refused:
        jobs.create(model="tiny", training_file=file.id)
    assert refused.value.param == "training_file"

    models = {model.id for model in client.models.list()}
    assert models == {"tiny", done.fine_tuned_model}
    assert client.models.retrieve(checkpoints[1].fine_tuned_model_checkpoint).owned_by == "bob"
    again = jobs.create(model=done.fine_tuned_model, training_file=training_file)
    assert again.model == done.fine_tuned_model
    jobs.cancel(again.id)
    assert client.models.delete(done.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(done.fine_tuned_model)
    services.deletion.delete(job.id, ADMIN)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_running_job_is_paused_resumed_cancelled_and_another_fails(
    base_url: str, key: str, checker: Checker, settings: Settings, training_file: str, tmp_path: Path
) -> None:
    async def follow() -> None:
        http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [checker.checked]})
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, http_client=http) as client:
            jobs = client.fine_tuning.jobs

            async def until(job_id: str, status: str) -> None:
                async with asyncio.timeout(120):
                    while (await jobs.retrieve(job_id)).status != status:
                        await asyncio.sleep(0.05)

            async def create(name: str) -> str:
                own = {"opensloth": {"name": name, "max_retries": 0}}
                return (await jobs.create(model="tiny", training_file=training_file, extra_body=own)).id

            long = await create("steps=5000 step_s=0.05 save=5")
            await until(long, "running")
            async with asyncio.timeout(120):
                while (await jobs.retrieve(long)).estimated_finish is None:
                    await asyncio.sleep(0.05)
            await jobs.pause(long)
            await until(long, "paused")
            assert [found.step_number async for found in jobs.checkpoints.list(long)]
            assert (await jobs.resume(long)).status in {"queued", "running"}
            await until(long, "running")
            await jobs.cancel(long)
            await until(long, "cancelled")

            failing = await create("steps=5 nan@2")
            await until(failing, "failed")
            error = (await jobs.retrieve(failing)).error
            assert error is not None
            assert error.code == "nan_loss"
            assert "learning_rate" in error.message
            assert [found.id async for found in jobs.list(limit=1)] == [failing, long]

    with running_worker(settings, tmp_path):
        asyncio.run(follow())
    assert checker.seen["FineTuningJob"] > 5
