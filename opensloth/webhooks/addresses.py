"""Where webhooks may go: public addresses over https, and what an administrator allows besides."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import quote, urlsplit

from opensloth.errors import FieldError, InvalidInput

Address: TypeAlias = IPv4Address | IPv6Address

MOST_CHARACTERS = 2048
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\.?", re.ASCII)
_PATH_SAFE = "/%:@!$&'()*+,;=~-._?"

_GLOBAL_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # a public address by which one cloud serves the metadata of its machines
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)
"""IANA's special-purpose registries; of IPv6 all outside 2000::/3 too, so mapped, translated, unique local addresses.

The standard library's `is_global` is not asked: what it says has changed between releases of one Python.
"""


class Refused(InvalidInput):
    """Nothing is sent to this address."""

    code = "webhook_url_refused"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__("the webhook's URL cannot be used", hint=hint, fields=[FieldError("url", message)])


@dataclass(frozen=True)
class Target:
    """A URL that was looked up once: whoever connects goes to one of `addresses` and asks nobody again."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query."""
    addresses: tuple[str, ...]


class AddressPolicy:
    """What may be reached; `allowed` names an administrator's own hosts and networks (CIDR), with spaces between."""

    def __init__(self, allowed: str | None = None) -> None:
        self._hosts: set[str] = set()
        self._networks = []
        for entry in (allowed or "").lower().replace(",", " ").split():
            try:
                self._networks.append(ip_network(entry))
            except ValueError:
                if not _NAME.fullmatch(entry):
                    message = f"{entry[:64]!r} is neither a host's name nor a network such as 10.1.0.0/16"
                    raise InvalidInput(
                        f"OPENSLOTH_WEBHOOK_ALLOW: {message}", fields=[FieldError("OPENSLOTH_WEBHOOK_ALLOW", message)]
                    ) from None
                self._hosts.add(entry)

    def look_up(self, url: str) -> Target:
        """The URL with its addresses, every one of which may be reached; raises Refused."""
        scheme, host, port, path = _parts(url)
        addresses = _resolve(host, port)
        own = host in self._hosts or all(self._allows(address) for address in addresses)
        if not own:
            for address in addresses:
                if not is_public(address) and not self._allows(address):
                    raise Refused(
                        f"{host} is not a public address ({_kind(address)})",
                        hint="an admin can allow it by OPENSLOTH_WEBHOOK_ALLOW",
                    )
            if scheme != "https":
                raise Refused("must begin with https://", hint="http is for hosts that an admin has allowed")
        return Target(scheme, host, port, path, tuple(str(address) for address in addresses))

    def _allows(self, address: Address) -> bool:
        plain = _unmapped(address)
        return any(plain in network for network in self._networks)


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet."""
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def _parts(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path; raises Refused for what is no address or says more than one."""
    if len(url) > MOST_CHARACTERS:
        raise Refused(f"is longer than {MOST_CHARACTERS} characters")
    # urlsplit drops some of these silently, so what is checked would not be what was sent.
    if any(character <= " " or character in "\x7f\\" for character in url):
        raise Refused("holds a space, a control character or a backslash")
    try:
        split = urlsplit(url)
        host, port = split.hostname or "", split.port
    except ValueError:
        raise Refused("is no URL such as https://hooks.example.com/opensloth") from None
    if split.scheme not in ("http", "https"):
        raise Refused("must begin with https://")
    if split.username is not None or split.password is not None:
        raise Refused("must hold no user name and no password; the signature says who sends")
    if split.fragment or url.endswith("#"):
        raise Refused("must have no fragment (`#...`)")
    if port == 0:
        raise Refused("has no port that can be reached")
    path = quote(split.path or "/", safe=_PATH_SAFE) + (
        f"?{quote(split.query, safe=_PATH_SAFE)}" if split.query else ""
    )
    return split.scheme, _host(host), port or (443 if split.scheme == "https" else 80), path


def _host(host: str) -> str:
    try:
        if ":" in host:
            return str(IPv6Address(host))
        name = host.encode("idna").decode("ascii").lower()
    except ValueError:
        name = ""
    if not _NAME.fullmatch(name):
        raise Refused("has no host's name that could be looked up")
    return name


def _resolve(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        raise Refused(f"{host} cannot be looked up: there is no address for it") from None
    texts = dict.fromkeys(str(entry[4][0]) for entry in found)
    # One address of IPv6 may name the interface by which it is reached.
    return [ip_address(text.partition("%")[0]) for text in texts]


def _unmapped(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _kind(address: Address) -> str:
    plain = _unmapped(address)
    if plain.is_loopback:
        return "it is this machine"
    if plain.is_link_local:
        return "it is link-local"
    return "it belongs to a private or reserved network"
