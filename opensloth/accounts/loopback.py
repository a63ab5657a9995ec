"""Without authentication whoever reaches the server is an admin, so nobody but this machine may reach it."""

from __future__ import annotations

import ipaddress

from opensloth.errors import FieldError, InvalidInput


def is_loopback(host: str) -> bool:
    """Whether an address, as one listens on it or comes from it, is this machine alone."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.split("%", 1)[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def require_loopback(auth: str, host: str) -> None:
    """Raise InvalidInput where authentication is off and the server would listen on more than loopback."""
    if auth == "off" and not is_loopback(host):
        message = f"OPENSLOTH_AUTH=off needs a loopback address such as 127.0.0.1, not {host!r}"
        raise InvalidInput(
            f"the server will not listen on {host} without authentication: everybody there would be an admin",
            hint="listen on 127.0.0.1, or leave OPENSLOTH_AUTH on and give out keys",
            fields=[FieldError("OPENSLOTH_HOST", message)],
        )
