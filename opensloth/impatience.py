"""A connection to PostgreSQL that does not wait for ever for a server that has stopped answering."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import TransactionStatus


class ImpatientConnection(psycopg.Connection[Any]):
    """Raises OperationalError, and is closed, once one statement has taken `silence_s` seconds; None waits for ever."""

    silence_s: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Every exchange with the server goes through here."""
        try:
            return super().wait(gen, interval, timeout=self.silence_s if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # what the server still does of it is unknown
            raise
