"""Requests that no client makes: ids that are paths, broken framing, bodies that are too much or no text."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from api import body as body_module
from api import uploads as uploads_module
from api.framing import Http
from api.main import create_app
from opensloth.services import Services
from opensloth.settings import Settings

CANARY = "canary-of-the-host"
IDS = (
    "..%2f..%2f..%2fcanary.txt",
    "%2e%2e%2f%2e%2e%2fcanary.txt",
    "..%5c..%5ccanary.txt",
    "%2fetc%2fpasswd",
    "file:%2f%2f%2fetc%2fpasswd",
    "%00",
    "%ff%fe",
    "%ed%a0%80",
    "%e2%80%ae%f0%9f%a6%a5",
    "x" * 8000,
    "99999999999999999999999999",
    "-1",
    "'%20OR%201=1--",
    "%25%73{{7*7}}$%7BHOME%7D",
)


def routes(settings: Settings) -> list[tuple[str, str]]:
    """Method and path of each route that takes an id."""
    paths = create_app(settings).openapi()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() if "{" in path for method in methods]


def ask(connection: HTTPConnection, method: str, path: str, key: str, body: bytes | None = None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    if method in ("POST", "PUT", "PATCH"):
        body = b"{}" if body is None else body
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode("utf-8", "replace")


@pytest.mark.slow
def test_an_id_that_is_a_path_or_no_text_is_just_not_there(
    base_url: str, key: str, settings: Settings, services: Services, tmp_path: Path
) -> None:
    (tmp_path / "canary.txt").write_text(CANARY)
    found = routes(settings)
    assert len(found) > 50
    connection = HTTPConnection(urlsplit(base_url).netloc, timeout=30)
    for method, path in found:
        for evil in IDS:
            status, text = ask(connection, method, re.sub(r"{[^}]*}", evil, path), key)
            assert 400 <= status < 500 or (status, text) in ((204, ""),), (method, path, evil, status, text[:300])
            assert CANARY not in text
            assert "root:" not in text


def send(base_url: str, *pieces: bytes) -> bytes:
    """What the server answers to these bytes until it closes, or says no more."""
    address = urlsplit(base_url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=20) as connection:
        answer = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            with contextlib.suppress(OSError):  # it may have closed by now; what it said is still to be read
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                answer += data
        except ConnectionError:  # it closed without reading what was too much
            pass
        return answer


def framed(key: str, body: bytes, path: str = "/v1/jobs", *more: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *more)
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in more):
        lines = (*lines, f"Content-Length: {len(body)}")
    if not any(line.lower().startswith("content-type") for line in more):
        lines = (*lines, "Content-Type: application/json")
    return "\r\n".join((*lines, "Connection: close", "", "")).encode("latin-1") + body


CHUNKED = "Transfer-Encoding: chunked"
BROKEN = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "an HTTP of the future": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "a header without end": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 300_000 + b"\r\n\r\n",
    "a hundred thousand headers": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
    "an address without end": b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "an address that is no text": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "a NUL in a header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_broken_framing_is_refused_and_the_server_goes_on(base_url: str, key: str) -> None:
    for name, request in BROKEN.items():
        assert not send(base_url, request) or send(base_url, request).split()[1][:1] == b"4", name
    cases = {
        "a chunk whose size is no number": framed(key, b"zz\r\n{}\r\n0\r\n\r\n", "/v1/jobs", CHUNKED),
        "a chunk larger than all memory": framed(key, b"ffffffffffffffff\r\n{}", "/v1/jobs", CHUNKED),
        "a chunk of less than nothing": framed(key, b"-5\r\n{}\r\n0\r\n\r\n", "/v1/jobs", CHUNKED),
        "a chunk that is cut off": framed(key, b"5\r\n{", "/v1/jobs", CHUNKED),
        "two lengths": framed(key, b"{}", "/v1/jobs", "Content-Length: 2", "Content-Length: 3"),
        "a length and chunks": framed(key, b"0\r\n\r\n", "/v1/jobs", "Content-Length: 50", CHUNKED),
        "a length below nothing": framed(key, b"{}", "/v1/jobs", "Content-Length: -1"),
        "a length beyond everything": framed(key, b"{}", "/v1/jobs", f"Content-Length: {10**30}"),
        "a length that is not kept": framed(key, b"{}", "/v1/jobs", "Content-Length: 9"),
        "an encoding that nobody knows": framed(key, b"{}", "/v1/jobs", "Transfer-Encoding: evil"),
        "a form that promises much": framed(key, b"--b", "/v1/files", "Content-Type: multipart/form-data; boundary=b"),
        "a boundary without end": framed(
            key, b"", "/v1/files", f"Content-Type: multipart/form-data; boundary={'b' * 5000}"
        ),
    }
    for name, request in cases.items():
        answer = send(base_url, request)
        assert not answer or answer.split()[1][:1] == b"4", (name, answer[:300])
    assert send(base_url, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200")


DEEP = 100_000
BODIES = {
    "lists without end": b"[" * DEEP + b"]" * DEEP,
    "objects without end": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a number of many digits": b'{"name": ' + b"9" * 100_000 + b"}",
    "a whole number beyond all floats": b'{"temperature": ' + b"9" * 400 + b', "messages": [], "model": "x"}',
    "a number beyond all floats": b'{"seed": 1e999999, "priority": 1e400}',
    "numbers that are none": b'{"seed": NaN, "priority": Infinity, "name": -Infinity}',
    "no UTF-8": b'{"name": "\xff\xfe"}',
    "an overlong slash": b'{"name": "\xc0\xaf"}',
    "half a surrogate": b'{"name": "\\ud800"}',
    "a NUL": b'{"name": "a\\u0000b"}',
    "one key twice": b'{"name": "a", "name": {"b": []}}',
    "UTF-16": '{"name": "a"}'.encode("utf-16"),
    "a list": b"[]",
    "a text": b'"x"',
    "nothing": b"null",
    "a million keys": b"{" + b",".join(b'"k%d":0' % n for n in range(60_000)) + b"}",
    "a name without end": json.dumps({"name": "x" * 900_000}).encode(),
    "an integer beyond the database": b'{"name": "a", "priority": 9223372036854775808, "max_retries": 1e308}',
    "too much": b'{"name": "' + b"x" * 2**21 + b'"}',
}


@pytest.mark.slow
def test_a_body_that_is_too_much_or_no_text_is_refused_by_every_route(
    base_url: str, key: str, settings: Settings
) -> None:
    paths = create_app(settings).openapi()["paths"]
    takers = [
        (method.upper(), re.sub(r"{[^}]*}", "x", path))
        for path, methods in paths.items()
        for method, told in methods.items()
        if "application/json" in told.get("requestBody", {}).get("content", {})
    ]
    assert len(takers) > 20
    for method, path in takers:
        for name, body in BODIES.items():
            connection = HTTPConnection(urlsplit(base_url).netloc, timeout=30)
            status, text = ask(connection, method, path, key, body)
            connection.close()
            assert 400 <= status < 500, (method, path, name, status, text[:300])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_clients_that_send_nothing_or_drop_by_drop_are_let_go_and_hold_up_nobody(
    base_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Http, "headers_s", 0.5)
    monkeypatch.setattr(body_module, "BODY_S", 0.5)
    monkeypatch.setattr(uploads_module, "SILENCE_S", 0.5)
    address = urlsplit(base_url)
    form = framed(key, b"", "/v1/files", "Content-Type: multipart/form-data; boundary=b", "Content-Length: 9000")
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{'
    starts = [b"", b"GET /heal", b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n", form + head] * 40
    starts += [framed(key, b'{"na', "/v1/jobs", "Content-Length: 900")] * 40
    clients = [socket.create_connection((address.hostname or "", address.port or 0), timeout=30) for _ in starts]
    for client, start in zip(clients, starts, strict=True):
        client.sendall(start)
    connection = HTTPConnection(address.netloc, timeout=30)
    assert ask(connection, "GET", "/v1/jobs", key)[0] == 200
    for client, start in zip(clients, starts, strict=True):
        answer = client.recv(65536)
        assert (not answer) if b"Authorization" not in start else b" 408 " in answer.splitlines()[0], (start, answer)
        client.close()
