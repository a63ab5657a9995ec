"""One create that the package sends again is one job; two creates of one body are two, whatever happens to a try."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import openai
import pytest

from api.openai import retries
from opensloth.accounts.callers import HOST
from opensloth.errors import RateLimited
from opensloth.services import Services

FAULTS = ("lost", "cut", "never")
"""The answer is lost, or its body is; the request does not get through."""


class Line:
    """What lies between a client and the server; `faults` befall the next creates, one each."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.tries: list[str] = []

    def client(self, base_url: str, key: str) -> openai.OpenAI:
        http = openai.DefaultHttpxClient(event_hooks={"request": [self._sends], "response": [self._answers]})
        inner = http._transport.handle_request

        def handle(request: Any) -> Any:
            response = inner(request)
            if self._is("lost", request):
                response.read()
                self._fail(response)
            return response

        http._transport.handle_request = handle  # type: ignore[method-assign]
        return openai.OpenAI(base_url=base_url, api_key=key, max_retries=2, http_client=http)

    def _is(self, fault: str, request: Any) -> bool:
        creates = request.method == "POST" and request.url.path == "/v1/fine_tuning/jobs"
        found = creates and self.faults[:1] == [fault]
        if found:
            self.faults.pop(0)
        return found

    def _sends(self, request: Any) -> None:
        self.tries.append(request.headers["x-stainless-retry-count"])
        if self._is("never", request):
            self._fail(request)

    def _answers(self, response: Any) -> None:
        if self._is("cut", response.request):
            self._fail(response)

    @staticmethod
    def _fail(of: Any) -> None:
        raise importlib.import_module(type(of).__module__.partition(".")[0]).ReadError("the connection is gone")


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def make(line: Line, base_url: str, key: str, training_file: str) -> Callable[..., str]:
    """Creates a job of the same body each time; a new client has made no request before."""
    mine = line.client(base_url, key)

    def create(client: openai.OpenAI = mine, faults: tuple[str, ...] = ()) -> str:
        line.faults += faults
        job = client.fine_tuning.jobs.create(model="tiny", training_file=training_file)
        assert not line.faults
        return job.id

    return create


def listed(client: openai.OpenAI) -> list[str]:
    return [job.id for job in client.fine_tuning.jobs.list()]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_create_that_is_sent_again_is_one_job(client: openai.OpenAI, make: Callable[..., str], fault: str) -> None:
    made = make(faults=(fault,))
    assert listed(client) == [made]


def test_a_create_of_the_same_body_is_another_job_whatever_befalls_either(
    client: openai.OpenAI, make: Callable[..., str]
) -> None:
    made = [make(), make(faults=("lost",)), make(faults=("cut", "lost")), make()]
    assert listed(client) == made[::-1]


def test_a_second_create_that_is_refused_for_a_moment_is_a_second_job(
    client: openai.OpenAI, services: Services, line: Line, make: Callable[..., str]
) -> None:
    first = make()
    services.users.update("bob", HOST, {"requests_per_minute": 40})
    key_id = services.keys.authenticate(client.api_key).key_id
    assert key_id is not None
    with contextlib.suppress(RateLimited):
        while True:
            services.rates.take(key_id, 40)
    line.tries.clear()
    second = make()
    assert line.tries[:2] == ["0", "1"]
    assert second != first


def test_another_clients_job_of_the_same_body_is_not_the_answer_to_a_retry(
    client: openai.OpenAI, line: Line, base_url: str, key: str, make: Callable[..., str]
) -> None:
    first = make()
    other = line.client(base_url, key)
    other.models.list()
    second = make(other, faults=("never", "lost"))
    assert listed(client) == [second, first]


def test_what_a_client_got_before_its_last_create_is_never_an_answer_again(
    client: openai.OpenAI, line: Line, make: Callable[..., str]
) -> None:
    made = [make(), make()]
    line.faults.append("never")
    # The one before may have been cut in its body, so it alone can be meant.
    assert make() == made[1]
    assert listed(client) == made[::-1]


def test_clients_are_reminded_of_the_newest_jobs_alone(
    line: Line, base_url: str, key: str, training_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_MOST", 3)
    client = line.client(base_url, key)
    ids = [client.fine_tuning.jobs.create(model="tiny", training_file=training_file).id for _ in range(5)]
    names = [name for name in client._client.cookies if name.startswith("opensloth-has-")]
    assert {f"ftjob-{name.removeprefix('opensloth-has-')}" for name in names} == set(ids[-3:])
