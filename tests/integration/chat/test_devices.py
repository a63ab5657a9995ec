"""Engines take devices through the queue, give way to any job, and give back what nobody uses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from opensloth.errors import Conflict
from opensloth.jobs.views import JobView
from opensloth.services import Services
from opensloth.settings import Settings
from tests.integration.chat.conftest import HI
from tests.support.http_server import serve
from tests.support.jobs import ADMIN, add_model, submit, wait_for, wait_for_state
from tests.support.workers import Worker, running_worker


def engines(services: Services) -> list[JobView]:
    return [job for job in services.jobs.list(ADMIN)[0] if job.kind == "chat"]


def test_a_job_gets_the_engines_device_at_once_and_the_answer_under_way_is_completed(
    client: openai.OpenAI, services: Services, worker: Worker
) -> None:
    client.chat.completions.create(model="tiny", messages=HI)
    stream = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "words=10 word_s=0.1"}], stream=True
    )
    first = next(stream)
    job_id = submit(services, "steps=3", priority="low")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in [first, *stream])
    assert len(text.split()) == 10
    wait_for_state(services, job_id, "succeeded", timeout=120)
    (engine,) = engines(services)
    assert (engine.state, engine.reason) == ("succeeded", "preempted")
    assert client.chat.completions.create(model="tiny", messages=HI).choices[0].message.content == "[base] w1 w2"
    assert len(engines(services)) == 2


@pytest.mark.slow
def test_a_request_waits_for_a_device_and_then_comes_again_later(
    client: openai.OpenAI, services: Services, settings: Settings, worker: Worker
) -> None:
    long = submit(services, "steps=2000 step_s=0.05")
    wait_for_state(services, long, "running", timeout=120)
    answers: list[str | None] = []

    def ask() -> None:
        answers.append(client.chat.completions.create(model="tiny", messages=HI).choices[0].message.content)

    waiting = threading.Thread(target=ask)
    waiting.start()
    wait_for(lambda: [job for job in engines(services) if job.state == "queued"])
    services.control.cancel(long, ADMIN, save=False)
    waiting.join(120)
    assert answers == ["[base] w1 w2"]


@pytest.mark.slow
def test_a_request_that_would_wait_in_vain_is_told_so_at_once_with_the_job_in_its_way(
    client: openai.OpenAI, services: Services, worker: Worker
) -> None:
    long = submit(services, "steps=100000 step_s=0.05")
    wait_for_state(services, long, "running", timeout=120)
    wait_for(lambda: services.jobs.get(long, ADMIN).progress)
    with pytest.raises(openai.InternalServerError, match=long) as busy:
        client.chat.completions.create(model="tiny", messages=HI)
    assert (busy.value.status_code, busy.value.code) == (503, "no_device")
    # That is when a device is expected, which no request would have waited for.
    assert int(busy.value.response.headers["retry-after"]) > 120
    assert engines(services) == []


@pytest.fixture
def impatient(settings: Settings, services: Services, tmp_path: Path) -> Iterator[Worker]:
    with running_worker(settings.model_copy(update={"chat_idle_s": 2.0}), tmp_path) as running:
        yield running


@pytest.mark.slow
def test_an_idle_engine_ends_by_itself(client: openai.OpenAI, services: Services, impatient: Worker) -> None:
    client.chat.completions.create(model="tiny", messages=HI)
    ended = wait_for_state(services, engines(services)[-1].id, "succeeded")
    assert ended.result is not None
    assert ended.result.model is None
    assert client.chat.completions.create(model="tiny", messages=HI).choices[0].finish_reason == "stop"


@pytest.mark.slow
def test_an_engine_keeps_its_device_from_another_models_for_its_turn_and_gives_it_up_after_that(
    client: openai.OpenAI, services: Services, settings: Settings, tmp_path: Path
) -> None:
    add_model(services, "other")

    def ask(url: str, model: str) -> str | None:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=client.api_key, max_retries=0, timeout=240) as one:
            return one.chat.completions.create(model=model, messages=HI).choices[0].message.content

    with (
        running_worker(settings.model_copy(update={"chat_turn_s": 3600.0}), tmp_path),
        serve(settings.model_copy(update={"chat_wait_s": 3.0})) as url,
    ):
        client.chat.completions.create(model="tiny", messages=HI)
        with pytest.raises(openai.InternalServerError, match="no device is free for other"):
            ask(url, "other")
        (engine,) = engines(services)
        assert (engine.state, engine.spec["model"]) == ("running", "tiny")
    wait_for(lambda: not [engine for engine in engines(services) if engine.state in ("running", "stopping")], 60)
    with running_worker(settings.model_copy(update={"chat_turn_s": 0.0}), tmp_path), serve(settings) as url:
        assert [ask(url, model) for model in ("tiny", "other", "tiny")] == ["[base] w1 w2"] * 3


@pytest.mark.slow
def test_an_engine_is_a_job_that_can_be_cancelled_but_not_paused_or_tried_again(
    client: openai.OpenAI, services: Services, worker: Worker
) -> None:
    client.chat.completions.create(model="tiny", messages=HI)
    (engine,) = engines(services)
    with pytest.raises(Conflict, match="nothing to pause"):
        services.control.pause(engine.id, ADMIN)
    with pytest.raises(Conflict, match="needs the model"):
        services.models.delete("tiny", ADMIN)
    services.control.cancel(engine.id, ADMIN)
    wait_for_state(services, engine.id, "cancelled")
    with pytest.raises(Conflict, match="not tried again"):
        services.retries.retry(engine.id, ADMIN)


@pytest.mark.slow
def test_a_worker_that_dies_takes_its_engine_along_and_the_next_one_starts_anew(
    client: openai.OpenAI, services: Services, settings: Settings, tmp_path: Path, worker: Worker
) -> None:
    client.chat.completions.create(model="tiny", messages=HI)
    (first,) = engines(services)
    worker.kill()
    worker.start()
    wait_for(lambda: services.jobs.get(first.id, ADMIN).state == "failed", 60)
    assert client.chat.completions.create(model="tiny", messages=HI).choices[0].finish_reason == "stop"
    assert len(engines(services)) == 2
