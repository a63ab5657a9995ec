"""Without keys a request is let in only if nothing about it says that it comes from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import Request

from api.local import local_caller
from opensloth.errors import NotAllowed


def request(
    client: tuple[str, int] | None = ("127.0.0.1", 5), server: tuple[str, int] = ("127.0.0.1", 8400), **headers: str
) -> Request:
    sent = {"host": "127.0.0.1:8400", **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = [(name.encode(), value.encode()) for name, value in sent.items()]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw}
    return Request({**scope, "client": client, "server": server})


def test_programs_of_this_machine_are_the_admin() -> None:
    for let_in in (
        request(),
        request(("::1", 5), ("::1", 8400), host="[::1]:8400"),
        request(host="localhost:8400", origin="http://localhost:8400", sec_fetch_site="same-origin"),
    ):
        assert local_caller(let_in).is_admin


@pytest.mark.parametrize(
    "refused",
    [
        request(("10.0.0.9", 5)),
        request(("testclient", 5)),
        request(None),
        request(server=("192.168.1.7", 8400)),
        request(host="box.example.org"),
        request(host="127.0.0.1.example.org"),
        request(host=""),
        request(x_forwarded_for="127.0.0.1"),
        request(forwarded="for=127.0.0.1"),
        request(via="1.1 proxy"),
        request(origin="https://example.org"),
        request(origin="null"),
        request(sec_fetch_site="cross-site"),
        request(sec_fetch_site="same-site"),
    ],
)
def test_whatever_may_come_from_elsewhere_is_refused(refused: Request) -> None:
    with pytest.raises(NotAllowed, match="own machine"):
        local_caller(refused)
