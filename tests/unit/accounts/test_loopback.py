"""Without authentication nobody but this machine reaches the server."""

from __future__ import annotations

import pytest

from opensloth.accounts.loopback import is_loopback, require_loopback
from opensloth.errors import InvalidInput


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST", "::ffff:127.0.0.1"]
)
def test_loopback_is_known_in_all_its_forms(host: str) -> None:
    assert is_loopback(host)
    require_loopback("off", host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.7", "10.0.0.1", "example.org", "127.0.0.1.example.org", "::ffff:10.0.0.1"]
)
def test_everything_else_needs_keys(host: str) -> None:
    assert not is_loopback(host)
    require_loopback("on", host)
    with pytest.raises(InvalidInput, match="without authentication"):
        require_loopback("off", host)
