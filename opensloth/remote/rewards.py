"""`client.rewards`: what GRPO can score answers with."""

from __future__ import annotations

import builtins

from opensloth.remote.shapes import Reward
from opensloth.remote.transport import Transport


class Rewards:
    """Everything under `/v1/rewards`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> builtins.list[Reward]:
        """Every reward that a job may name."""
        return [Reward(**entry) for entry in self._transport.json("GET", "/v1/rewards")["data"]]
