"""A team's own scoring service, well and badly behaved."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from opensloth.rewards import RewardFailed, RewardPolicy, RewardRunner, build_rewards


class Service(ThreadingHTTPServer):
    """Answers by the path of the request, and remembers what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, Any]] = []
        self.released = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def bodies(self, path: str) -> list[Any]:
        return [body for where, body in self.requests if where == f"/{path}"]


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append((self.path, body))
        scores = [float(len(text)) for text in body["completions"]]
        match self.path:
            case "/slow":
                self.server.released.wait(20)
            case "/drip":
                self.start(200)
                while not self.server.released.wait(0.05):
                    self.wfile.write(b" ")
            case "/busy_once" if len(self.server.bodies("busy_once")) == 1:
                self.answer(503, {})
            case "/broken":
                self.answer(500, {})
            case "/elsewhere":
                self.start(302, location=self.server.url("good"))
            case "/refuses":
                self.answer(401, {})
            case "/large":
                self.start(200)
                for _ in range(100):
                    self.wfile.write(b" " * 2**20)
            case "/short":
                self.answer(200, {"scores": scores[1:]})
            case "/nan":
                self.answer(200, [float("nan")] * len(scores))
            case "/words":
                self.answer(200, ["1"] * len(scores))
            case "/no_json":
                self.start(200)
                self.wfile.write(b"<html>")
            case _:
                self.answer(200, {"scores": scores})

    def start(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, status: int, value: Any) -> None:
        self.start(status)
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_args: Any) -> None:
        return


PATHS = [
    "good",
    "slow",
    "drip",
    "busy_once",
    "broken",
    "elsewhere",
    "refuses",
    "large",
    "short",
    "nan",
    "words",
    "no_json",
]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    server = Service()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def runner(service: Service) -> Iterator[RewardRunner]:
    policy = RewardPolicy(urls=(*map(service.url, PATHS), "http://127.0.0.1:1/closed"), call_timeout_s=10)
    with RewardRunner(policy) as made:
        yield made


def ask(runner: RewardRunner, url: str, completions: list[str], **params: Any) -> list[float]:
    (bound,) = build_rewards([{"name": "http", "params": {"url": url, "timeout_s": 0.5, **params}}], runner.policy)
    rows = [{"prompt": "p", "answer": "x", "n": place} for place in range(len(completions))]
    return runner.score(bound, completions, rows)


def test_scores_come_in_batches_with_rows_and_parameters(runner, service):
    scores = ask(runner, service.url("good"), ["a", "bb", "ccc"], batch_size=2, columns=["n"], extra={"k": 1})
    assert scores == [1.0, 2.0, 3.0]
    assert service.bodies("good") == [
        {"completions": ["a", "bb"], "rows": [{"n": 0}, {"n": 1}], "params": {"k": 1}},
        {"completions": ["ccc"], "rows": [{"n": 2}], "params": {"k": 1}},
    ]


def test_a_busy_service_is_asked_again(runner, service):
    assert ask(runner, service.url("busy_once"), ["a"]) == [1.0]
    assert len(service.bodies("busy_once")) == 2


@pytest.mark.parametrize(
    ("path", "why", "requests"),
    [
        ("slow", "failed 2 times, last: ReadTimeout", 2),
        ("drip", "no whole answer in 0.5 s", 2),
        ("broken", "failed 2 times, last: status 500", 2),
        ("refuses", "status 401", 1),
        ("elsewhere", "status 302", 1),
        ("large", "larger than", 1),
        ("short", "with 2 numbers", 1),
        ("nan", "nan", 1),
        ("words", "no number", 1),
        ("no_json", "no JSON", 1),
    ],
)
def test_a_service_that_misbehaves_fails_by_name_and_in_time(runner, service, path, why, requests):
    started = time.monotonic()
    with pytest.raises(RewardFailed, match="'http'") as caught:
        ask(runner, service.url(path), ["a", "b"], max_retries=1)
    assert why in caught.value.message
    assert len(service.bodies(path)) == requests
    assert time.monotonic() - started < 10


def test_a_redirect_is_not_followed(runner, service):
    before = len(service.bodies("good"))
    with pytest.raises(RewardFailed):
        ask(runner, service.url("elsewhere"), ["a"])
    assert len(service.bodies("good")) == before


def test_a_service_that_is_not_there_fails_by_name(runner):
    with pytest.raises(RewardFailed, match="failed 1 time, last: ConnectError"):
        ask(runner, "http://127.0.0.1:1/closed", ["a"], max_retries=0)
