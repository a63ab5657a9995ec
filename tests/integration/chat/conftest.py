"""The API behind uvicorn and a worker whose engines are fast; each answer is checked against the SDK's types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from migrations.__main__ import upgrade
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.http_server import serve
from tests.support.jobs import add_model
from tests.support.workers import Worker, running_worker

HI: Any = [{"role": "user", "content": "words=3"}]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'opensloth.db'}"
    upgrade(url)
    return url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changes: dict[str, Any] = {"chat_module": "tests.support.fake_engine", "chat_wait_s": 120.0, "devices": "cpu:1"}
    # No test here is about leases, and on a busy machine one of two seconds is lost now and then.
    changes |= {"lease_s": 20.0, "lease_renew_s": 1.0, "host_timeout_s": 10.0}
    return settings.model_copy(update=changes)


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[Worker]:
    with running_worker(settings, tmp_path) as running:
        yield running


@pytest.fixture
def base_url(settings: Settings) -> Iterator[str]:
    with serve(settings) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(base_url: str, services: Services) -> Iterator[openai.OpenAI]:
    """Of a member; there is a model to ask."""
    add_model(services)
    key = services.keys.create("bob")[1]
    http = openai.DefaultHttpxClient(event_hooks={"response": [check]})
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=240, http_client=http) as made:
        yield made


def check(response: Any) -> None:
    """Raise unless a whole answer is strictly of the SDK's type, with nothing missing in it and nothing unknown."""
    if response.headers["content-type"].startswith("text/event-stream") or response.status_code >= 400:
        return
    response.read()
    kind: Any = ChatCompletion if response.request.url.path.endswith("chat/completions") else Completion
    strict(kind, response.text)


def strict(kind: Any, text: str) -> Any:
    found = TypeAdapter(kind).validate_json(text, strict=True)
    _no_extra(found)
    return found


def strict_chunk(text: str) -> ChatCompletionChunk:
    chunk: ChatCompletionChunk = strict(ChatCompletionChunk, text)
    return chunk


def _no_extra(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _no_extra(item)
    elif hasattr(value, "model_extra"):
        assert not value.model_extra, f"{type(value).__name__} has {json.dumps(value.model_extra)}"
        for name in type(value).model_fields:
            _no_extra(getattr(value, name))
