"""`client.secrets`: tokens that jobs may use; nothing shows their values again."""

from __future__ import annotations

from urllib.parse import quote

from opensloth.remote.shapes import Page, Secret
from opensloth.remote.transport import Transport


class Secrets:
    """Everything under `/v1/secrets`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Secret]:
        """One's own secrets by name, without their values."""
        return Page.read(self._transport.json("GET", "/v1/secrets"), Secret).data

    def set(self, name: str, value: str) -> Secret:
        """Stores a secret, or replaces the one of that name."""
        return Secret(**self._transport.json("POST", "/v1/secrets", json={"name": name, "value": value}))

    def delete(self, name: str) -> None:
        """Forgets a secret now; raises NotFound."""
        self._transport.request("DELETE", f"/v1/secrets/{quote(name, safe='')}")
