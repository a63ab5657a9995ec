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
        """One's own secrets and those of the team by name, without their values."""
        return Page.read(self._transport.json("GET", "/v1/secrets"), Secret).data

    def set(self, name: str, value: str, team: str | None = None) -> Secret:
        """Stores a secret of one's own or of a team, or replaces the one of that name."""
        body = {"name": name, "value": value} | ({} if team is None else {"team": team})
        return Secret(**self._transport.json("POST", "/v1/secrets", json=body))

    def delete(self, name: str, team: str | None = None) -> None:
        """Forgets a secret now; raises NotFound."""
        params = {} if team is None else {"team": team}
        self._transport.request("DELETE", f"/v1/secrets/{quote(name, safe='')}", params=params)
