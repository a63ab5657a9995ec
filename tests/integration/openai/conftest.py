"""The real openai package against the API behind uvicorn."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.http_server import serve
from tests.support.jobs import add_model


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
def client(base_url: str, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30) as made:
        yield made
