"""`client.keys`: API keys; making and revoking them is for admins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

    def create(
        self,
        owner: str,
        *,
        role: str = "member",
        scopes: Sequence[str] | None = None,
        expires_in_s: float | None = None,
        requests_per_minute: int | None = None,
    ) -> Key:
        """A new key for `owner`, for all that the role allows or for some scopes; its `key` is shown here alone."""
        body: dict[str, Any] = {"owner": owner, "role": role}
        if scopes:
            body["scopes"] = list(scopes)
        if expires_in_s is not None:
            body["expires_in_s"] = expires_in_s
        if requests_per_minute is not None:
            body["requests_per_minute"] = requests_per_minute
        return Key(**self._transport.json("POST", "/v1/keys", json=body))

    def limit(self, key_id: str, requests_per_minute: int | None) -> Key:
        """How many requests a minute the key may send; None: what holds for its user. For admins."""
        body = {"requests_per_minute": requests_per_minute}
        return Key(**self._transport.json("PATCH", f"/v1/keys/{quote(key_id, safe='')}", json=body))

    def rotate(self, key_id: str, *, overlap_s: float = 0.0, expires_in_s: float | None = None) -> Key:
        """A new key for the same in place of one that ends now, or after `overlap_s`."""
        body: dict[str, Any] = {"overlap_s": overlap_s}
        if expires_in_s is not None:
            body["expires_in_s"] = expires_in_s
        return Key(**self._transport.json("POST", f"/v1/keys/{quote(key_id, safe='')}/rotate", json=body))

    def revoke(self, key_id: str) -> None:
        """Ends a key at once."""
        self._transport.request("DELETE", f"/v1/keys/{quote(key_id, safe='')}")
