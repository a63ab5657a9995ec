"""Error classes of the openai package, and what it sends again: what may succeed, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from api.errors import from_domain
from opensloth.accounts.callers import HOST
from opensloth.errors import Conflict, InsufficientStorage, NotYet, OpenSlothError, TooLarge, Unavailable
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.http_server import serve
from tests.support.jobs import ADMIN, submit


@pytest.fixture
def sent() -> list[str]:
    """The requests that went out."""
    return []


@pytest.fixture
def sdk(base_url: str, key: str, sent: list[str]) -> Iterator[openai.OpenAI]:
    """A client that retries as the package does by default, and counts."""
    http = openai.DefaultHttpxClient(event_hooks={"request": [lambda request: sent.append(request.url.path)]})
    with openai.OpenAI(base_url=base_url, api_key=key, http_client=http) as made:
        yield made


Call = Callable[[openai.OpenAI], Any]


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (openai.NotFoundError, lambda sdk: sdk.webhooks.retrieve("webhook_none")),
        (openai.NotFoundError, lambda sdk: sdk.fine_tuning.jobs.retrieve("ftjob-none")),
        (openai.BadRequestError, lambda sdk: sdk.webhooks.create(name="n", url="x", event_types=[])),
        (openai.BadRequestError, lambda sdk: sdk.fine_tuning.jobs.create(model="tiny", training_file="file-none")),
        (openai.AuthenticationError, lambda sdk: sdk.with_options(api_key="sk-sloth-x").webhooks.list()),
        (openai.PermissionDeniedError, lambda sdk: sdk.post("/teams", cast_to=object, body={"name": "mine"})),
    ],
)
def test_a_refusal_has_its_class_and_is_not_sent_again(
    sdk: openai.OpenAI, sent: list[str], kind: type[openai.APIStatusError], call: Call
) -> None:
    with pytest.raises(kind) as refused:
        call(sdk)
    assert len(sent) == 1
    assert refused.value.request_id
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_conflict_that_stays_is_not_sent_again(sdk: openai.OpenAI, services: Services, sent: list[str]) -> None:
    """The package sends every 409 again unless it is told not to."""
    job_id = submit(services)
    services.control.cancel(job_id, ADMIN)
    admin = sdk.with_options(api_key=services.keys.create("admin", "admin")[1])
    with pytest.raises(openai.ConflictError):
        admin.fine_tuning.jobs.pause(job_id)
    assert len(sent) == 1


def test_a_quota_that_is_used_up_is_insufficient_quota_and_not_sent_again(
    sdk: openai.OpenAI, services: Services, sent: list[str]
) -> None:
    services.users.update("bob", HOST, {"max_bytes": 1})
    with pytest.raises(openai.RateLimitError) as refused:
        sdk.files.create(file=("rows.jsonl", b'{"prompt": "a", "completion": "b"}\n'), purpose="fine-tune")
    assert (refused.value.code, refused.value.type) == ("insufficient_quota", "insufficient_quota")
    assert len(sent) == 1


def test_a_database_that_is_away_is_an_internal_server_error_that_says_when_to_come_back(
    settings: Settings, key: str
) -> None:
    away = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:9/none"})
    with serve(away) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        with pytest.raises(openai.InternalServerError) as failed:
            client.webhooks.list()
    response = failed.value.response
    assert response.status_code == 503
    assert (response.headers["x-should-retry"], response.headers["retry-after"]) == ("true", "5")
    assert client._should_retry(response)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (NotYet("it still stops"), True),
        (Unavailable("away"), True),
        (Conflict("it has ended"), False),
        (TooLarge("too large"), False),
        (InsufficientStorage("the disk is short"), False),
        (OpenSlothError("a mistake of our own"), False),
    ],
)
def test_the_package_sends_again_what_may_succeed(error: OpenSlothError, again: bool) -> None:
    import httpx2

    answer = from_domain(error)
    response = httpx2.Response(answer.status_code, headers=dict(answer.headers))
    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="x")
    assert client._should_retry(response) is again
    assert ("retry-after" in response.headers) is again


def test_the_package_waits_as_long_as_it_is_told() -> None:
    import httpx2

    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="x")
    headers = httpx2.Headers(dict(from_domain(Unavailable("away")).headers))
    assert client._parse_retry_after_header(headers) == 5.0


def test_the_asynchronous_client_has_the_same_classes(base_url: str, key: str) -> None:
    async def use() -> None:
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key) as client:
            with pytest.raises(openai.NotFoundError):
                await client.webhooks.retrieve("webhook_none")
            with pytest.raises(openai.BadRequestError):
                await client.webhooks.create(name="n", url="x", event_types=[])
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="no").webhooks.list()

    asyncio.run(use())
