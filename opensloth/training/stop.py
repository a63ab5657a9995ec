"""SIGTERM: before training it ends the process at once, in training after the current step."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from typing import Any

EXIT_STOPPED = 10


class Stop:
    """Whether a stop was asked for, and what it means now.

    The handler runs in the main thread between two bytecodes, so that a long call (loading, tokenizing) delays it
    until it returns.
    """

    def __init__(self) -> None:
        self.requested = False
        self.leave_at_once = True
        """True until the ranks have agreed to train."""
        self.before_leaving: Any = None
        """Called by the handler before it leaves at once; rank 0 writes its record there."""

    def install(self) -> None:
        """From now on SIGTERM means stop."""
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, _signal: int, _frame: Any) -> None:
        self.requested = True
        if self.leave_at_once:
            self.leave()

    def leave(self) -> None:
        """Ends the process as stopped, without unwinding: nothing has been trained that could be lost."""
        if self.before_leaving is not None:
            self.before_leaving()
        os._exit(EXIT_STOPPED)

    def agree_to_train(self, store: Any, rank: int, count: int, timeout_s: float = 3600.0) -> None:
        """Returns on all ranks, or leaves on all: rank 0 decides once every rank is ready.

        Without this, a rank that had already begun would wait for ever in its first exchange for one that a SIGTERM
        ended while it was still loading. `store` is the ranks' TCPStore.
        """
        self.leave_at_once = False
        if count == 1:
            if self.requested:
                self.leave()
            return
        if rank == 0:
            deadline = time.monotonic() + timeout_s
            others = [f"ready/{other}" for other in range(1, count)]
            while not self.requested and not store.check(others):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not all {count} ranks were ready within {timeout_s:.0f} s")
                time.sleep(0.01)
            store.set("decision", "stop" if self.requested else "train")
        else:
            store.set(f"ready/{rank}", "1")
            store.wait(["decision"], timedelta(seconds=timeout_s))
        if store.get("decision") == b"stop":
            self.leave()
