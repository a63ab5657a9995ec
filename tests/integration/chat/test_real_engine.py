"""The real engine with a tiny model and real adapters, behind API and worker: the same words as transformers'."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from opensloth.models.rows import ModelRow
from opensloth.services import Services
from opensloth.settings import Settings
from tests.integration.chat.conftest import check, strict_chunk
from tests.support.http_server import serve
from tests.support.jobs import ADMIN, submit, wait_for, wait_for_state
from tests.support.tiny_adapters import make_adapter
from tests.support.tiny_model import make_tiny_model
from tests.support.workers import running_worker, trainers_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUESTIONS = ["Hi", "What is it?", "x" * 120]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changes = {"chat_module": "opensloth.chat.engine.main", "chat_wait_s": 120.0}
    return settings.model_copy(update=changes)


@pytest.fixture
def models(services: Services, tmp_path: Path) -> dict[str, Path | None]:
    """A base, two adapters to switch to, and one that has to be merged."""
    base = make_tiny_model(tmp_path / "base")
    made: dict[str, Path | None] = {"tiny": None}
    options: dict[str, Any] = {"one": {}, "two": {"r": 8}, "dora": {"use_dora": True}}
    services.storage.put_tree(base, "models/tiny")
    with services.database.write() as session:
        common = {"owner": "bob", "status": "ready", "created_at": time.time()}
        session.add(ModelRow(id="tiny", kind="base", source="/made/by/test", storage_key="models/tiny", **common))
        for number, (name, lora) in enumerate(options.items()):
            made[f"ft:{name}"] = folder = make_adapter(base, tmp_path / name, number, **lora)
            services.storage.put_tree(folder, f"jobs/{name}/artifacts")
            row = ModelRow(
                id=f"ft:{name}",
                kind="result",
                team="default",
                source=name,
                storage_key=f"jobs/{name}/artifacts",
                base_id="tiny",
                lora=lora or {"r": 4},
                **common,
            )
            session.add(row)
    return made


@pytest.fixture
def client(settings: Settings, services: Services, models: Any, tmp_path: Path) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(event_hooks={"response": [check]})
    with (
        running_worker(settings, tmp_path),
        serve(settings) as url,
        openai.OpenAI(
            base_url=f"{url}/v1",
            api_key=services.keys.create("bob")[1],
            max_retries=0,
            timeout=300,
            http_client=http,
        ) as made,
    ):
        yield made


@cache
def expected(base: Path, adapter: Path | None, question: str, most: int) -> str:
    """What `generate` says greedily."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        said = model.generate(**inputs, do_sample=False, max_new_tokens=most)
    return str(tokenizer.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def ask(client: openai.OpenAI, model: str, question: str, **options: Any) -> Any:
    message: Any = [{"role": "user", "content": question}]
    return client.chat.completions.create(
        **{"model": model, "messages": message, "temperature": 0, "max_tokens": 20, **options}
    )


def test_answers_are_those_of_transformers_for_each_model_whole_and_streamed(
    client: openai.OpenAI, services: Services, models: dict[str, Path | None], tmp_path: Path
) -> None:
    for name, adapter in models.items():
        for question in QUESTIONS:
            wanted = expected(tmp_path / "base", adapter, question, 20)
            whole = ask(client, name, question)
            assert whole.choices[0].message.content == wanted, name
            pieces = list(ask(client, name, question, stream=True, stream_options={"include_usage": True}))
            for piece in pieces:
                strict_chunk(piece.model_dump_json(exclude_unset=True))
            assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == wanted, name
            assert pieces[-1].usage == whole.usage
    # One engine for the base and its adapters, one for the adapter that is merged.
    engines = [engine for engine in services.jobs.list(ADMIN)[0] if engine.kind == "chat"]
    assert sorted(engine.spec["model"] for engine in engines) == ["ft:dora", "tiny"]

    # What the parameters do, on the same engine.
    seeded = {ask(client, "tiny", "Hi", temperature=1, seed=5).choices[0].message.content for _ in range(3)}
    assert len(seeded) == 1
    several = ask(client, "tiny", "Hi", temperature=1, seed=5, n=3)
    assert several.choices[0].message.content in seeded
    assert len({choice.message.content for choice in several.choices}) > 1
    assert several.usage.completion_tokens <= 60
    told = ask(client, "tiny", "Hi", logprobs=True, top_logprobs=3)
    tokens = told.choices[0].logprobs.content
    assert "".join(token.token for token in tokens if "\ufffd" not in token.token)
    assert bytes(b for token in tokens for b in token.bytes).decode("utf-8", "replace") == (
        told.choices[0].message.content
    )
    assert all(token.top_logprobs[0].logprob == token.logprob for token in tokens)
    stop = told.choices[0].message.content[3:5]
    ended = ask(client, "tiny", "Hi", stop=[stop]).choices[0]
    assert (ended.finish_reason, ended.message.content) == (
        "stop",
        told.choices[0].message.content.split(stop)[0],
    )
    echo = client.completions.create(
        model="tiny", prompt="Hello", echo=True, max_tokens=3, temperature=0, logprobs=None
    )
    assert echo.choices[0].text.startswith("Hello")
    assert echo.usage is not None
    assert (echo.usage.prompt_tokens, echo.usage.completion_tokens) == (5, 3)
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512") as long:
        ask(client, "tiny", "x" * 600)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError) as bias:
        ask(client, "tiny", "Hi", logit_bias={"999999": 1})
    assert bias.value.param == "logit_bias"


def test_a_killed_engine_and_one_that_gives_way_to_a_job(client: openai.OpenAI, services: Services) -> None:
    ask(client, "tiny", "Hi")
    (engine,) = [job for job in services.jobs.list(ADMIN)[0] if job.kind == "chat"]
    stream = ask(client, "tiny", "Hi", stream=True, max_tokens=450, logit_bias={"260": -100})
    next(stream)
    (process,) = trainers_of(engine.id)
    process.send_signal(signal.SIGKILL)

    def read() -> None:
        for _ in stream:
            pass

    with pytest.raises(openai.APIError, match="broke off"):
        read()
    wait_for_state(services, engine.id, "failed")
    assert ask(client, "tiny", "Hi").choices[0].message.content
    job_id = submit(services, "steps=3")
    wait_for_state(services, job_id, "succeeded", timeout=240)
    assert ask(client, "ft:one", "Hi").choices[0].message.content
    states = sorted(job.state for job in services.jobs.list(ADMIN)[0] if job.kind == "chat")
    assert states == ["failed", "running", "succeeded"]


def test_a_client_that_leaves_frees_its_row(client: openai.OpenAI, services: Services) -> None:
    ask(client, "tiny", "Hi")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 400, "stream": True}
    headers = {"Authorization": f"Bearer {client.api_key}"}
    with httpx.stream("POST", f"{client.base_url}chat/completions", json=body, headers=headers) as answer:
        next(answer.iter_lines())
    # Cancelling the engine waits for answers that are under way; there is none.
    (engine,) = [job for job in services.jobs.list(ADMIN)[0] if job.kind == "chat"]
    services.control.cancel(engine.id, ADMIN)
    wait_for(lambda: services.jobs.get(engine.id, ADMIN).state == "cancelled", 30)
