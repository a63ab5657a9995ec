"""The service for the demo: the one that runs already, or one that is started for it and stopped after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from opensloth.client import Client, ClientError
from opensloth.remote.credentials import home

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 150.0


class Service:
    """`with Service() as client:`; `started` says whether it is ours to stop."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._log = home() / "logs" / "up.log"

    @property
    def started(self) -> bool:
        """Whether the service was started here."""
        return self._process is not None

    def __enter__(self) -> Client:
        """A client of a service that is ready."""
        client = running_service()
        return client if client is not None else self._start()

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops what was started."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        self._process.wait(STOP_TIMEOUT_S)

    def _start(self) -> Client:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "opensloth.cli", "up", "--port", str(free_port())]
        with self._log.open("wb") as log:
            # In a session of its own, so that Ctrl-C in the demo reaches only the demo, which then stops it in order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if "Ready at " in self._log.read_text(encoding="utf-8"):
                return Client()
            time.sleep(0.1)
        raise SystemExit(f"The service did not start:\n{self._log.read_text(encoding='utf-8')}")


def running_service() -> Client | None:
    """A client of the service that the stored credentials name, if it answers and knows the key."""
    try:
        client = Client()
        client.ready()
        next(client.models.list(limit=1), None)
    except ClientError:
        return None
    return client


def free_port() -> int:
    """OPENSLOTH_PORT or 8400, or the next port that nobody listens on."""
    first = int(os.environ.get("OPENSLOTH_PORT", "8400"))
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit(f"No port from {first} on is free.")


def here(*names: str) -> Path:
    """A file beside this one."""
    return Path(__file__).resolve().parent.joinpath(*names)
