"""Uploads are sent once for each content; downloads are whole or not there."""

from __future__ import annotations

import hashlib

import httpx
import pytest

from opensloth.client import Artifact, Client, InvalidRequest, TransferCorrupt
from opensloth.remote import transport
from opensloth.remote.jobs import safe_parts
from tests.support.fake_api import FakeApi, problem

CONTENT = b"weights" * 1000
ARTIFACT = Artifact(name="adapter/model.safetensors", bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
ROUTE = "GET /v1/jobs/j/artifacts/adapter/model.safetensors"


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.001)
    return FakeApi()


@pytest.fixture
def client(api):
    return Client("http://box", "k", http_transport=api.transport())


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "hello"}\n')
    return path


def test_the_same_content_is_sent_once_whatever_its_name(api, client, rows, tmp_path):
    api.on("POST /v1/files", {"id": "file-1", "filename": "rows.jsonl", "status": "processed"})
    api.on("GET /v1/files/file-1", {"id": "file-1", "filename": "rows.jsonl"})
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(rows.read_bytes())
    seen = []
    assert client.files.upload(rows, progress=lambda done, total: seen.append((done, total))).id == "file-1"
    assert client.files.upload(copy).id == "file-1"
    assert len(api.seen("POST /v1/files")) == 1
    assert seen[-1] == (18, 18)


def test_changed_content_is_sent_again(api, client, rows):
    api.on("POST /v1/files", {"id": "file-1"}, {"id": "file-2"})
    api.on("GET /v1/files/file-1", {"id": "file-1"})
    client.files.upload(rows)
    rows.write_text('{"text": "other"}\n')
    assert client.files.upload(rows).id == "file-2"


def test_a_file_that_the_server_has_lost_is_sent_again(api, client, rows):
    api.on("POST /v1/files", {"id": "file-1"}, {"id": "file-2"})
    client.files.upload(rows)
    assert client.files.upload(rows).id == "file-2"


def test_another_server_gets_its_own_copy(api, client, rows):
    api.on("POST /v1/files", {"id": "file-1"}, {"id": "file-2"})
    api.on("GET /v1/files/file-1", {"id": "file-1"})
    client.files.upload(rows)
    other = Client("http://other", "k", http_transport=api.transport())
    assert other.files.upload(rows).id == "file-2"


def test_a_file_refused_by_its_content_is_not_remembered(api, client, rows):
    api.on("POST /v1/files", {"id": "file-1", "status": "error"}, {"id": "file-2", "status": "error"})
    api.on("GET /v1/files/file-1", {"id": "file-1"})
    client.files.upload(rows)
    assert client.files.upload(rows).id == "file-2"


def test_a_missing_file_is_named(client, tmp_path):
    with pytest.raises(InvalidRequest, match=r"no file at .*none\.jsonl"):
        client.files.upload(tmp_path / "none.jsonl")


def test_a_download_is_verified_and_put_in_place_at_once(api, client, tmp_path):
    api.on(ROUTE, httpx.Response(200, content=CONTENT))
    path = client.jobs.download_artifact("j", ARTIFACT, tmp_path)
    assert path == tmp_path / "adapter" / "model.safetensors"
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_a_changed_download_is_refused_and_leaves_nothing(api, client, tmp_path):
    api.on(ROUTE, httpx.Response(200, content=b"other"))
    with pytest.raises(TransferCorrupt):
        client.jobs.download_artifact("j", ARTIFACT, tmp_path)
    assert not list((tmp_path / "adapter").iterdir())


def test_a_broken_download_goes_on_from_what_has_arrived(api, client, tmp_path):
    def broken():
        yield CONTENT[:3000]
        raise httpx.ReadError("reset")

    def rest(request):
        assert request.headers["range"] == "bytes=3000-"
        return httpx.Response(206, content=CONTENT[3000:])

    api.on(ROUTE, lambda _: httpx.Response(200, content=broken()), rest)
    assert client.jobs.download_artifact("j", ARTIFACT, tmp_path).read_bytes() == CONTENT


def test_a_server_that_cannot_go_on_sends_all_again(api, client, tmp_path):
    part = tmp_path / "adapter" / "model.safetensors.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:10])
    api.on(ROUTE, httpx.Response(200, content=CONTENT))
    assert client.jobs.download_artifact("j", ARTIFACT, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_taken(api, client, tmp_path):
    part = tmp_path / "adapter" / "model.safetensors.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    api.on(ROUTE, problem(416, "range", "nothing is there"))
    assert client.jobs.download_artifact("j", ARTIFACT, tmp_path).read_bytes() == CONTENT


def test_a_file_that_is_there_already_is_not_fetched(api, client, tmp_path):
    api.on(ROUTE, httpx.Response(200, content=CONTENT))
    client.jobs.download_artifact("j", ARTIFACT, tmp_path)
    client.jobs.download_artifact("j", ARTIFACT, tmp_path)
    assert len(api.requests) == 1


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "C:\\x", "a\\..\\b", ""])
def test_a_name_from_the_server_cannot_leave_the_folder(name):
    with pytest.raises(ValueError, match="not a file name"):
        safe_parts(name)
