"""The API behind uvicorn, with a key for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.http_server import serve
from tests.support.tiny_model import make_tiny_model
from tests.support.training import TrainerHost


@pytest.fixture
def base_url(settings: Settings) -> Iterator[str]:
    # What asks for a chat that no worker serves is answered at once.
    with serve(settings.model_copy(update={"chat_wait_s": 0.1, "requests_per_minute": 0})) as url:
        yield url


@pytest.fixture
def key(services: Services) -> str:
    return services.keys.create("admin", "admin")[1]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def trainers() -> TrainerHost:
    """Starts trainer processes without their slow imports."""
    return TrainerHost()
