"""The API behind uvicorn, on SQLite and on PostgreSQL, and clients with keys for it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.http_server import serve


@pytest.fixture
def base_url(settings: Settings) -> Iterator[str]:
    with serve(settings) as url:
        yield url


def client_for(base_url: str, key: str | None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=base_url, headers=headers, timeout=30)


@pytest.fixture
def admin(base_url: str, services: Services) -> Iterator[httpx.Client]:
    with client_for(base_url, services.keys.create("admin", "admin")[1]) as client:
        yield client


@pytest.fixture
def member(base_url: str, services: Services) -> Iterator[httpx.Client]:
    with client_for(base_url, services.keys.create("bob")[1]) as client:
        yield client


@pytest.fixture
def anyone(base_url: str) -> Iterator[httpx.Client]:
    with client_for(base_url, None) as client:
        yield client
