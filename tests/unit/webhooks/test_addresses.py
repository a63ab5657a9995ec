"""Webhooks go to public addresses by https, and to what an administrator allows; to nothing else by any spelling."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from opensloth.errors import InvalidInput
from opensloth.webhooks.addresses import AddressPolicy, Refused, is_public

Names = Callable[..., None]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Lets names have certain addresses; what is no name is looked up as ever."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: str, port: int, **how: int) -> list[tuple[object, ...]]:
        if host not in known:
            return [*real(host, port, flags=socket.AI_NUMERICHOST, **how)]
        return [entry for text in known[host] for entry in real(text, port, flags=socket.AI_NUMERICHOST, **how)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    def add(**addresses: str) -> None:
        known.update({name.replace("_", "."): text.split() for name, text in addresses.items()})

    return add


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.8.8.8"),
        *("168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1"),
        *("198.18.0.1", "203.0.113.9", "224.0.0.1", "239.255.255.250", "255.255.255.255"),
        *("::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808"),
        *("64:ff9b:1::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "2001::1", "2002:7f00:1::"),
        "2001:db8::1",
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(Refused, match="cannot be used") as refused:
        AddressPolicy().look_up(f"https://{host}/hook")
    assert "is not a public address" in refused.value.fields[0].message


@pytest.mark.parametrize("address", ["8.8.8.8", "9.9.9.9", "172.32.0.1", "100.128.0.1", "2606:4700::1111"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    target = AddressPolicy().look_up(f"https://{host}:8443/hook?a=b")
    assert (target.addresses, target.port, target.path) == ((address,), 8443, "/hook?a=b")


@pytest.mark.parametrize("host", ["0", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "127.0.0.1."])
def test_an_address_in_another_spelling_is_the_same_address(host: str) -> None:
    with pytest.raises(Refused):
        AddressPolicy().look_up(f"https://{host}/")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://9.9.9.9/", "must begin with https://"),
        ("ftp://9.9.9.9/", "must begin with https://"),
        ("9.9.9.9/hook", "must begin with https://"),
        ("https://", "no host's name"),
        ("https:///hook", "no host's name"),
        ("https://ann:secret@9.9.9.9/", "no user name"),
        ("https://ann@9.9.9.9/", "no user name"),
        ("https://9.9.9.9/#x", "no fragment"),
        ("https://9.9.9.9:0/", "no port"),
        ("https://9.9.9.9:99999/", "is no URL"),
        ("https://9.9.9.9:x/", "is no URL"),
        ("https://[::1/", "is no URL"),
        ("https://9.9.9.9/a b", "a space"),
        ("https://9.9.9.9\\@127.0.0.1/", "backslash"),
        ("https://9.9.9.9/\r\nhost:x", "control character"),
        ("https://ex%61mple.com/", "no host's name"),
        (f"https://{'a' * 64}.com/", "no host's name"),
        (f"https://9.9.9.9/{'a' * 2048}", "longer than"),
        ("https://no-such-name.invalid/", "cannot be looked up"),
    ],
)
def test_what_is_no_usable_url_says_why(names: Names, url: str, why: str) -> None:
    with pytest.raises(Refused) as refused:
        AddressPolicy().look_up(url)
    (field,) = refused.value.fields
    assert field.path == "url"
    assert why in field.message
    assert "secret" not in field.message


def test_one_private_address_of_a_name_refuses_the_name(names: Names) -> None:
    names(hooks_example="9.9.9.9 10.0.0.7")
    with pytest.raises(Refused):
        AddressPolicy().look_up("https://hooks.example/")
    names(hooks_example="9.9.9.9 2606:4700::1111")
    assert AddressPolicy().look_up("https://hooks.example/").addresses == ("9.9.9.9", "2606:4700::1111")


def test_an_admin_allows_networks_and_names_and_http_for_them(names: Names) -> None:
    names(ours_example="10.1.2.3", mixed_example="10.1.2.3 10.9.9.9", inside_example="192.168.0.4")
    policy = AddressPolicy("10.1.0.0/16, inside.example ::1/128")
    assert policy.look_up("http://ours.example/").addresses == ("10.1.2.3",)
    assert policy.look_up("http://inside.example:8080/").port == 8080
    assert policy.look_up("http://[::1]/").host == "::1"
    for url in ("http://mixed.example/", "https://mixed.example/", "https://192.168.0.4/", "http://9.9.9.9/"):
        with pytest.raises(Refused):
            policy.look_up(url)


def test_a_name_in_other_letters_is_looked_up_as_the_resolver_knows_it(names: Names) -> None:
    names(**{"xn--bcher-kva_example": "9.9.9.9"})
    assert AddressPolicy().look_up("https://Bücher.example/ä").path == "/%C3%A4"


@pytest.mark.parametrize("allowed", ["10.0.0.0/33", "10.0.0.1/8", "http://x", "a/b"])
def test_a_mistake_in_the_setting_is_told_by_its_name(allowed: str) -> None:
    with pytest.raises(InvalidInput, match="OPENSLOTH_WEBHOOK_ALLOW"):
        AddressPolicy(allowed)
