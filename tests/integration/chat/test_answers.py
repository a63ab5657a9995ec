"""The real openai package asks; what it is told is what it expects."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import openai
import pytest

from opensloth.models.rows import ModelRow
from opensloth.services import Services
from tests.integration.chat.conftest import HI, strict_chunk
from tests.support.jobs import ADMIN, wait_for
from tests.support.workers import Worker

pytestmark = pytest.mark.usefixtures("worker")


def test_an_answer_whole_and_in_pieces_sync_and_async_with_one_engine(
    client: openai.OpenAI, services: Services, base_url: str
) -> None:
    whole = client.chat.completions.create(model="tiny", messages=HI, n=2, logprobs=True, top_logprobs=1)
    assert [choice.message.content for choice in whole.choices] == ["[base] w1 w2"] * 2
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (1, 6, 7)
    assert whole.choices[1].logprobs is not None
    assert [token.token for token in whole.choices[1].logprobs.content or []] == ["[base]", " w1", " w2"]
    assert (whole.model, whole.system_fingerprint) == ("tiny", "fp_fake")
    assert client.chat.completions.create(model="tiny", messages=HI, max_tokens=2).choices[0].finish_reason == "length"

    stream = client.chat.completions.create(
        model="tiny", messages=HI, n=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6
    assert chunks[-1].choices == []
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=base_url, api_key=client.api_key) as other:

            async def one(number: int) -> str:
                streamed = await other.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": f"words={number}"}], stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in streamed])

            return await asyncio.gather(*(one(number) for number in range(1, 9)))

    assert [len(text.split()) for text in asyncio.run(ask())] == list(range(1, 9))

    text = client.completions.create(model="tiny", prompt=["words=2", "words=2"], logprobs=1, max_tokens=5)
    assert [choice.text for choice in text.choices] == ["[base] w1"] * 2
    assert text.choices[0].logprobs is not None
    assert text.choices[0].logprobs.text_offset == [0, 6]
    pieces = list(client.completions.create(model="tiny", prompt="words=2", stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == "[base] w1"
    (engine,) = [job for job in services.jobs.list(ADMIN)[0] if job.kind == "chat"]
    assert (engine.state, engine.owner, engine.priority) == ("running", "bob", "low")


@pytest.mark.slow
def test_every_line_of_a_stream_is_a_chunk_and_the_last_one_is_done(client: openai.OpenAI, base_url: str) -> None:
    body: dict[str, Any] = {"model": "tiny", "messages": HI, "stream": True, "logprobs": True}
    headers = {"Authorization": f"Bearer {client.api_key}"}
    answer = httpx.post(f"{base_url}/chat/completions", json=body, headers=headers, timeout=240)
    assert answer.headers["content-type"].startswith("text/event-stream")
    # A comment is sent while the engine takes its time to start.
    *lines, last = [line for line in answer.text.split("\n\n") if line and not line.startswith(":")]
    assert last == "data: [DONE]"
    chunks = [strict_chunk(line.removeprefix("data: ")) for line in lines]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.slow
def test_a_stream_whose_engine_starts_begins_before_it_and_ends_with_its_error(
    client: openai.OpenAI, base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.openai.chat.STATUS_S", 0.0)
    monkeypatch.setattr("api.openai.chat.HEARTBEAT_S", 0.2)
    body: dict[str, Any] = {"model": "tiny", "messages": HI, "stream": True}
    headers = {"Authorization": f"Bearer {client.api_key}"}
    with httpx.stream("POST", f"{base_url}/chat/completions", json=body, headers=headers, timeout=240) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[0] == ": keep-alive"
    assert lines[-1] == "data: [DONE]"
    long: Any = [{"role": "user", "content": "long"}]
    with pytest.raises(openai.APIError) as late:
        list(client.chat.completions.create(model="tiny", messages=long, stream=True))
    assert late.value.code == "context_length_exceeded"


@pytest.mark.slow
def test_results_and_checkpoints_are_adapters_on_the_engine_of_their_base(
    client: openai.OpenAI, services: Services
) -> None:
    with services.database.write() as session:
        for name in ("one", "two"):
            session.add(
                ModelRow(
                    id=f"ft:tiny:default:{name}:x",
                    kind="result",
                    status="ready",
                    owner="bob",
                    team="default",
                    source=f"ftjob-{name}",
                    storage_key=f"jobs/{name}/artifacts",
                    base_id="tiny",
                    lora={"r": 8, "lora_alpha": 8, "bias": "none"},
                    created_at=time.time(),
                )
            )
        session.add(
            ModelRow(
                id="ft:tiny:secret:three:x",
                kind="result",
                status="ready",
                owner="eve",
                team="others",
                source="ftjob-three",
                storage_key="jobs/three/artifacts",
                base_id="tiny",
                lora={"r": 8},
                created_at=time.time(),
            )
        )
    for name in ("one", "two"):
        answer = client.chat.completions.create(model=f"ft:tiny:default:{name}:x", messages=HI)
        assert answer.model == f"ft:tiny:default:{name}:x"
        assert str(answer.choices[0].message.content).startswith(f"[jobs/{name}/artifacts]")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="ft:tiny:secret:three:x", messages=HI)
    assert len([job for job in services.jobs.list(ADMIN)[0] if job.kind == "chat"]) == 1


@pytest.mark.slow
def test_what_the_engine_refuses_keeps_its_code_and_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "long"}])
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError) as streamed:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "long"}], stream=True)
    assert streamed.value.code == "context_length_exceeded"


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_takes_its_request_back(
    client: openai.OpenAI, services: Services, base_url: str, stream: bool
) -> None:
    client.chat.completions.create(model="tiny", messages=HI)  # the engine runs
    body = {"model": "tiny", "messages": [{"role": "user", "content": "words=500 word_s=0.1"}], "stream": stream}
    headers = {"Authorization": f"Bearer {client.api_key}"}
    with httpx.Client(timeout=httpx.Timeout(60, read=60 if stream else 0.5)) as http:
        if stream:
            with http.stream("POST", f"{base_url}/chat/completions", json=body, headers=headers) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post(f"{base_url}/chat/completions", json=body, headers=headers)
    wait_for((services.settings.home / "runs" / "taken_back").exists)


@pytest.mark.slow
def test_an_engine_that_dies_before_it_spoke_is_replaced_and_nobody_notices(
    client: openai.OpenAI, worker: Worker
) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "die_once@0"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in answer) == "[base] w1 w2"
    again = client.chat.completions.create(model="tiny", messages=HI)
    assert again.choices[0].message.content == "[base] w1 w2"


def test_an_engine_that_dies_in_the_middle_breaks_a_stream_off_with_an_error_and_makes_a_whole_answer_anew(
    client: openai.OpenAI, services: Services
) -> None:
    message: Any = [{"role": "user", "content": "words=4 die_once@2"}]
    whole = client.chat.completions.create(model="tiny", messages=message)
    assert whole.choices[0].message.content == "[base] w1 w2 w3"
    (services.settings.home / "runs" / "died").unlink()
    seen: list[str | None] = []

    def read() -> None:
        for chunk in client.chat.completions.create(model="tiny", messages=message, stream=True):
            seen.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError, match="broke off") as broken:
        read()
    assert [text for text in seen if text] == ["[base]", " w1"]
    assert broken.value.code == "engine_lost"
    assert json.loads(client.chat.completions.create(model="tiny", messages=HI).model_dump_json())["choices"]


@pytest.mark.slow
def test_a_request_that_kills_every_engine_ends_as_an_error(client: openai.OpenAI, services: Services) -> None:
    with pytest.raises(openai.InternalServerError) as lost:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "die@0"}])
    assert lost.value.status_code == 503
    assert lost.value.code == "engine_lost"
    assert lost.value.response.headers["retry-after"]
    engines = [job for job in services.jobs.list(ADMIN)[0] if job.kind == "chat"]
    assert len(engines) == 3
