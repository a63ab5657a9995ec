"""HTTP as uvicorn speaks it, and connections that send no whole request in time are closed: `--http api.framing:Http`.

uvicorn itself waits for ever for the rest of a request's head, so that a few thousand silent connections would take
every file descriptor of the process.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 20.0


class Http(H11Protocol):
    """A connection."""

    headers_s = HEADERS_S
    """How long a head may take from its first byte, the connection's first one from its start."""
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """It sent something; the time goes on for what is no whole head yet."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._wait_no_more()
        elif self._late is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """It went away."""
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._late = self.loop.call_later(self.headers_s, self.transport.abort)

    def _wait_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
