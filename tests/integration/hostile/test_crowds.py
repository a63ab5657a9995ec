"""Crowds: hundreds of uploads and previews at once take bounded memory, and hold up nobody else."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from opensloth.datasets import check as check_module
from opensloth.datasets.previews import PreviewService
from opensloth.errors import InvalidInput
from opensloth.rewards import trial as trial_module
from opensloth.services import Services
from opensloth.settings import Settings
from tests.support.faults import api_process
from tests.support.jobs import add_file, wait_for

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
CROWD = 60
"""More than the server has threads."""
GRADER = {"type": "string_check", "name": "same", "input": "a", "reference": "a", "operation": "eq"}


def request(
    base_url: str, key: str, method: str, path: str, body: bytes = b"", content: str = "application/json"
) -> http.client.HTTPConnection:
    """A request that is sent; its answer is not waited for."""
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=120)
    connection.request(method, path, body, {"Authorization": f"Bearer {key}", "Content-Type": content})
    return connection


def status(connection: http.client.HTTPConnection) -> int:
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def form(content: bytes, filename: str) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'.encode()
    purpose = b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n'
    return head + content + purpose


class Slow:
    """Work that takes until it is let go; `begun` counts it, and `most` how much of it there was at once."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = self.most = self.now = 0
        self._lock = threading.Lock()

    def __call__(self, *_: Any, **__: Any) -> None:
        with self._lock:
            self.begun += 1
            self.now += 1
            self.most = max(self.most, self.now)
        self.go.wait(60)
        with self._lock:
            self.now -= 1
        raise InvalidInput("done")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    """In the place of all that takes seconds."""
    work = Slow()
    monkeypatch.setattr(PreviewService, "preview", work)
    monkeypatch.setattr(check_module, "check_isolated", work)
    monkeypatch.setattr(trial_module, "try_grader", work)
    return work


def previews(base_url: str, key: str) -> http.client.HTTPConnection:
    return request(base_url, key, "GET", "/v1/files/file-1/preview")


def packed_uploads(base_url: str, key: str) -> http.client.HTTPConnection:
    body = form(gzip.compress(b'{"prompt": "a", "completion": "b"}\n'), "rows.jsonl.gz")
    return request(base_url, key, "POST", "/v1/files", body, "multipart/form-data; boundary=b")


def graders(base_url: str, key: str) -> http.client.HTTPConnection:
    body = json.dumps({"grader": GRADER, "model_sample": "a"}).encode()
    return request(base_url, key, "POST", "/v1/fine_tuning/alpha/graders/run", body)


@ON_SQLITE
@pytest.mark.parametrize("ask", [previews, packed_uploads, graders])
def test_a_crowd_that_waits_for_slow_work_holds_up_nobody_and_who_leaves_is_not_worked_for(
    base_url: str, key: str, slow: Slow, ask: Callable[[str, str], http.client.HTTPConnection]
) -> None:
    crowd = [ask(base_url, key) for _ in range(CROWD)]
    wait_for(lambda: slow.begun == 2)
    assert status(request(base_url, key, "GET", "/v1/jobs")) == 200
    for connection in crowd[10:]:
        connection.close()
    assert status(request(base_url, key, "GET", "/v1/jobs")) == 200
    slow.go.set()
    assert {status(connection) for connection in crowd[:10]} <= {400, 422}
    assert slow.most == 2
    assert slow.begun < CROWD


CROWD_OF_LARGE = 200
ROW_BYTES = 8 * 2**20
MOST_GROWTH = 700 * 2**20
"""Less than half of what these rows take."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@ON_SQLITE
def test_hundreds_of_large_uploads_and_previews_take_bounded_memory_and_others_are_answered(
    settings: Settings, services: Services, tmp_path: Path
) -> None:
    file_id, key = add_file(services), services.keys.create("ann")[1]
    body = form(b'{"prompt": "' + b"a" * ROW_BYTES + b'", "completion": "b"}\n', "rows.jsonl")
    kept = body[:-1000]  # so that all are in the middle of their row
    with api_process(settings.model_copy(update={"requests_per_minute": 0}), tmp_path) as url:
        api = process_on(url)
        before = api.memory_info().rss
        crowd = [begun_upload(url, key, len(body)) for _ in range(CROWD_OF_LARGE)]
        for upload in crowd:
            upload.send(kept)
        assert status(request(url, key, "GET", "/v1/jobs")) == 200
        grown = [api.memory_info().rss - before]
        previews = [request(url, key, "GET", f"/v1/files/{file_id}/preview") for _ in range(CROWD_OF_LARGE)]
        helpers = [len(api.children())]
        for upload in crowd:
            upload.send(body[-1000:])
        for upload in crowd:
            assert status(upload) == 200
            assert status(request(url, key, "GET", "/v1/jobs")) == 200
            grown.append(api.memory_info().rss - before)
            helpers.append(len(api.children()))
        assert {status(preview) for preview in previews} <= {200, 503}
    assert max(grown) < MOST_GROWTH
    assert max(helpers) <= 2


def begun_upload(base_url: str, key: str, size: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=300)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Authorization", f"Bearer {key}")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    return connection


def process_on(url: str) -> psutil.Process:
    port = url.rpartition(":")[2]
    return next(one for one in psutil.process_iter(["cmdline"]) if port in (one.info["cmdline"] or []))
