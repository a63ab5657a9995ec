"""A receiver of webhooks, well and badly behaved, that remembers what came."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    body: str
    headers: dict[str, str]

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver(ThreadingHTTPServer):
    """Answers with `status`, or by the path: /500, /410 and the like, /slow, /drip, /elsewhere."""

    daemon_threads = True

    def __init__(self, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        super().__init__((address, 0), Handler)
        self.scheme = "https" if tls else "http"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.status = 200
        self.more_headers: dict[str, str] = {}
        self.requests: list[Received] = []
        self.released = threading.Event()

    def url(self, path: str = "hook", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.server_port}/{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what some tests want."""


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Received(self.path, body, headers))
        name = self.path[1:].partition("?")[0]
        if name == "slow":
            self.server.released.wait(30)
            self.answer(self.server.status)
        elif name == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
            while not self.server.released.wait(0.05):
                self.wfile.write(b"x")
        elif name == "elsewhere":
            self.answer(307, location=self.server.url("hook"))
        elif name == "large":
            self.send_response(200)
            self.end_headers()
            for _ in range(1000):
                self.wfile.write(b" " * 2**16)
        else:
            self.answer(int(name) if name.isdecimal() else self.server.status)

    def answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for header, value in {**headers, **self.server.more_headers}.items():
            self.send_header(header.replace("_", "-"), value)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver on a free port of 127.0.0.1."""
    with Receiver(tls=tls) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.released.set()
            receiver.shutdown()
            thread.join(10)
