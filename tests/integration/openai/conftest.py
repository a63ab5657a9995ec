"""The real openai package against the API behind uvicorn; each answer is checked against the package's types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from migrations.__main__ import upgrade
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.http_server import serve
from tests.support.jobs import add_model
from tests.support.openai_strict import Checker

CHATS = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"Hello {n}"}]} for n in range(12)
]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite alone: what differs between databases is below these routes."""
    url = f"sqlite:///{tmp_path / 'opensloth.db'}"
    upgrade(url)
    return url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With leases that a busy machine does not lose: what becomes of a job then is tested elsewhere."""
    longer = {"lease_s": 20.0, "lease_renew_s": 1.0, "host_timeout_s": 20.0, "stop_grace_s": 30.0}
    return settings.model_copy(update=longer)


@pytest.fixture
def base_url(settings: Settings) -> Iterator[str]:
    with serve(settings) as url:
        yield f"{url}/v1"


@pytest.fixture
def key(services: Services) -> str:
    """Of a member; there is a model to train."""
    add_model(services)
    return services.keys.create("bob")[1]


@pytest.fixture
def checker() -> Checker:
    return Checker()


@pytest.fixture
def client(base_url: str, key: str, checker: Checker) -> Iterator[openai.OpenAI]:
    with client_for(base_url, key, checker) as made:
        yield made


def client_for(base_url: str, key: str, checker: Checker, max_retries: int = 0) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(event_hooks={"response": [checker]})
    return openai.OpenAI(base_url=base_url, api_key=key, max_retries=max_retries, timeout=30, http_client=http)


@pytest.fixture
def training_file(client: openai.OpenAI) -> str:
    content = "".join(json.dumps(row) + "\n" for row in CHATS).encode()
    return client.files.create(file=("chats.jsonl", content), purpose="fine-tune").id
