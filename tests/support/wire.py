"""A wire between a program and PostgreSQL that can be cut, that can hang, and that can lose the answer to a commit."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy import make_url

State = Literal["whole", "cut", "hanging"]


class Wire:
    """Listens on a port of its own and passes on what comes, both ways, as long as it is whole."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._server = str(Path(str(parsed.query["host"])) / ".s.PGSQL.5432")
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parsed.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
        self._state: State = "whole"
        self._restored = threading.Event()
        self._restored.set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._loses: bytes | None = None
        self.lost = 0
        """Commits whose answer was lost."""
        threading.Thread(target=self._accept, name="wire", daemon=True).start()

    def cut(self) -> None:
        """Every connection ends, and new ones are closed at once."""
        self._state = "cut"
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Nothing is passed on, and nobody is told."""
        self._restored.clear()
        self._state = "hanging"

    def restore(self) -> None:
        """Pass on again what comes, and what came while it hung."""
        self._state = "whole"
        self._restored.set()

    def lose_answer_after(self, sent: bytes) -> None:
        """The next commit of a transaction in which `sent` was sent is applied, and its connection ends unanswered."""
        self._loses = sent

    def close(self) -> None:
        """The end of it."""
        self._listener.close()
        self.restore()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=[client], daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            if self._state == "cut":
                return
            server.connect(self._server)
            with self._lock:
                self._open |= {client, server}
            try:
                self._carry(client, server)
            except OSError:
                return
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        armed = loses = False
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    self._restored.wait()
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is server:
                        if loses:
                            self.lost += 1
                            return  # it has been applied: the server answers after that
                        client.sendall(data)
                        continue
                    if self._loses is not None and self._loses in data:
                        armed, self._loses = True, None
                    loses = loses or (armed and b"COMMIT" in data)
                    server.sendall(data)


@contextmanager
def wire_to(url: str) -> Iterator[Wire]:
    """A wire to the PostgreSQL behind `url`."""
    wire = Wire(url)
    try:
        yield wire
    finally:
        wire.close()
