"""`client.queue`: who is next, and who used how much."""

from __future__ import annotations

import builtins

from opensloth.remote.shapes import QueueEntry, Use
from opensloth.remote.transport import Transport

PAGE = 1000


class Queue:
    """`/v1/queue` and `/v1/usage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int | None = None) -> builtins.list[QueueEntry]:
        """The queue in the order in which it is served; jobs of other teams have no id."""
        found: list[QueueEntry] = []
        while limit is None or len(found) < limit:
            params = {"limit": PAGE if limit is None else min(PAGE, limit - len(found)), "after": len(found)}
            body = self._transport.json("GET", "/v1/queue", params=params)
            found += [QueueEntry(**entry) for entry in body["data"]]
            if not body["has_more"] or not body["data"]:
                break
        return found

    def usage(self, *, days: int = 7) -> builtins.list[Use]:
        """What each user had of the devices on the last `days` days, most first."""
        body = self._transport.json("GET", "/v1/usage", params={"days": days})
        return [Use(**entry) for entry in body["data"]]
