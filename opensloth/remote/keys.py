"""`client.keys`: API keys; making and revoking them is for admins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from opensloth.remote.shapes import Key, Page
from opensloth.remote.transport import Transport


class Keys:
    """Everything under `/v1/keys`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Key]:
        """Keys without their secrets: all for an admin, one's own for others."""
        yield from Page.read(self._transport.json("GET", "/v1/keys"), Key).data

    def create(self, owner: str, *, role: str = "member") -> Key:
        """A new key for `owner`; its `key` is shown here and never again."""
        body: dict[str, Any] = {"owner": owner, "role": role}
        return Key(**self._transport.json("POST", "/v1/keys", json=body))

    def revoke(self, key_id: str) -> None:
        """Ends a key at once."""
        self._transport.request("DELETE", f"/v1/keys/{quote(key_id, safe='')}")
