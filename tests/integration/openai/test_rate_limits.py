"""Rate limits as the openai package meets them: the error, the headers, and a client that waits by itself."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from opensloth.errors import RateLimited
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.http_server import serve


def client_of(
    url: str, services: Services, requests: int | None, owner: str = "ann", retries: int = 0
) -> openai.OpenAI:
    key = services.keys.create(owner, requests_per_minute=requests)[1]
    return openai.OpenAI(base_url=url, api_key=key, max_retries=retries)


def test_one_request_too_many_is_a_rate_limit_error_that_says_when_to_come_back(
    base_url: str, services: Services
) -> None:
    client = client_of(base_url, services, requests=3)
    left = []
    for _ in range(3):
        headers = client.files.with_raw_response.list().headers
        assert headers["x-ratelimit-limit-requests"] == "3"
        left.append(int(headers["x-ratelimit-remaining-requests"]))
    assert left == [2, 1, 0]
    with pytest.raises(openai.RateLimitError) as refused:
        client.files.list()
    error, headers = refused.value, refused.value.response.headers
    assert (error.code, error.type, error.param) == ("rate_limit_exceeded", "requests", None)
    assert 0 < int(headers["retry-after-ms"]) <= 20_000
    assert int(headers["retry-after"]) == -(-int(headers["retry-after-ms"]) // 1000)
    assert headers["x-should-retry"] == "true"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"]
    assert client._should_retry(error.response)
    other = client_of(base_url, services, requests=None, owner="bob")
    assert other.files.with_raw_response.list().headers["x-ratelimit-limit-requests"] == "6000"


def test_the_package_waits_and_succeeds_by_itself(base_url: str, services: Services) -> None:
    client = client_of(base_url, services, requests=12, retries=2)
    key_id = services.keys.authenticate(client.api_key).key_id
    assert key_id is not None
    with contextlib.suppress(RateLimited):
        while True:
            services.rates.take(key_id, 12)
    assert client.files.with_raw_response.list().retries_taken == 1


def test_two_servers_share_a_keys_limit(settings: Settings, base_url: str, services: Services) -> None:
    with serve(settings) as second:
        first = client_of(base_url, services, requests=5)
        others = openai.OpenAI(base_url=f"{second}/v1", api_key=first.api_key, max_retries=0)

        def ask(number: int) -> bool:
            try:
                (first, others)[number % 2].files.list()
            except openai.RateLimitError:
                return False
            return True

        with ThreadPoolExecutor(6) as pool:
            passed = sum(pool.map(ask, range(12)))
        assert passed == 5


def test_without_redis_a_server_counts_for_itself_and_refuses_nobody_for_it(
    settings: Settings, services: Services
) -> None:
    gone = settings.model_copy(update={"redis_url": "redis://127.0.0.1:9/0"})
    with serve(gone) as url:
        client = client_of(f"{url}/v1", services, requests=3)
        for _ in range(3):
            client.files.list()
        with pytest.raises(openai.RateLimitError):
            client.files.list()


def test_an_admin_limits_keys_users_and_teams_and_the_narrowest_holds(base_url: str, services: Services) -> None:
    admin_key = services.keys.create("admin", "admin")[1]
    admin = openai.OpenAI(base_url=base_url, api_key=admin_key, max_retries=0)
    client = client_of(base_url, services, requests=None)
    key_id = services.keys.authenticate(client.api_key).key_id

    def limit() -> str:
        return client.files.with_raw_response.list().headers["x-ratelimit-limit-requests"]

    def change(path: str, requests: int | None) -> None:
        admin.patch(path, cast_to=object, body={"requests_per_minute": requests})

    assert limit() == "6000"
    for path, requests in (("/teams/default", 900), ("/users/ann", 800), (f"/keys/{key_id}", 700)):
        change(path, requests)
        assert limit() == str(requests)
    change(f"/keys/{key_id}", None)
    assert limit() == "800"
    rotated, _ = services.keys.rotate(services.keys.create("ann", requests_per_minute=50)[0].id)
    assert rotated.requests_per_minute == 50
    with pytest.raises(openai.PermissionDeniedError):
        client.patch(f"/keys/{key_id}", cast_to=object, body={"requests_per_minute": 10**6})
    with pytest.raises(openai.PermissionDeniedError):
        client.post("/keys", cast_to=object, body={"owner": "ann", "requests_per_minute": 10**6})


def test_the_asynchronous_client_meets_the_same_error(base_url: str, services: Services) -> None:
    async def use() -> None:
        key = services.keys.create("ann", requests_per_minute=1)[1]
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
            await client.files.list()
            with pytest.raises(openai.RateLimitError):
                await client.files.list()

    asyncio.run(use())
