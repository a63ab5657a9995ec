"""`client.users`, `client.teams`: who works here, and what each may have; changing them is for admins."""

from __future__ import annotations

import builtins
from typing import Any
from urllib.parse import quote

from opensloth.remote.shapes import Page, Team, User
from opensloth.remote.transport import Transport


class Users:
    """Everything under `/v1/users`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, team: str | None = None) -> builtins.list[User]:
        """All users for an admin, those of one's own team for others."""
        params = {} if team is None else {"team": team}
        return Page.read(self._transport.json("GET", "/v1/users", params=params), User).data

    def get(self, name: str) -> User:
        """One user."""
        return User(**self._transport.json("GET", _path("users", name)))

    def create(self, name: str, **fields: Any) -> User:
        """A new user: `role`, `team`, `account` and the limits as the server names them."""
        return User(**self._transport.json("POST", "/v1/users", json={"name": name, **fields}))

    def change(self, name: str, **fields: Any) -> User:
        """Changes what is given; None takes a limit away, `disabled=True` locks the user out."""
        return User(**self._transport.json("PATCH", _path("users", name), json=fields))

    def delete(self, name: str) -> None:
        """Removes a user to whom nothing belongs."""
        self._transport.request("DELETE", _path("users", name))


class Teams:
    """Everything under `/v1/teams`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> builtins.list[Team]:
        """All teams for an admin, one's own for others."""
        return Page.read(self._transport.json("GET", "/v1/teams"), Team).data

    def get(self, name: str) -> Team:
        """One team."""
        return Team(**self._transport.json("GET", _path("teams", name)))

    def create(self, name: str, **limits: Any) -> Team:
        """A new team with its limits."""
        return Team(**self._transport.json("POST", "/v1/teams", json={"name": name, **limits}))

    def change(self, name: str, **limits: Any) -> Team:
        """Changes the limits that are given; None takes one away."""
        return Team(**self._transport.json("PATCH", _path("teams", name), json=limits))

    def delete(self, name: str) -> None:
        """Removes a team that nobody is in and nothing belongs to."""
        self._transport.request("DELETE", _path("teams", name))


def _path(kind: str, name: str) -> str:
    return f"/v1/{kind}/{quote(name, safe='')}"
