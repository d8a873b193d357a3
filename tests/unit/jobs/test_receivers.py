"""Which receivers of webhooks are allowed."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from atelier.core.errors import InvalidParameter
from atelier.jobs.receivers import Receivers, is_public

_PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.9",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:0:10.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:a00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
_PUBLIC = ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]


@pytest.mark.parametrize("address", _PRIVATE)
def test_private_addresses_are_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(InvalidParameter, match="no public address") as refused:
        Receivers().checked(f"https://{literal}/hook")
    assert refused.value.param == "webhook"


@pytest.mark.parametrize("address", _PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(ip_address(address))
    Receivers().checked(f"https://[{address}]/" if ":" in address else f"https://{address}/")


@pytest.mark.parametrize("host", ["127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "１２７.0.0.1", "127.0.0.1."])
def test_other_spellings_of_private_addresses_are_refused(host: str) -> None:
    with pytest.raises(InvalidParameter, match="no public address"):
        Receivers().checked(f"https://{host}/hook")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "is not a URL"),
        ("example.org/hook", "is not a URL"),
        ("https://", "is not a URL"),
        ("https://example.org:99999/", "is not a URL"),
        ("https://exa mple.org/", "is not a URL"),
        ("\ud800", "is not a URL"),
        ("http://example.org/hook", "is not an https URL"),
        ("ftp://example.org/hook", "is not an https URL"),
        ("file:///etc/passwd", "is not an https URL"),
        ("ftp://named.example/hook", "is not an https URL"),
        ("https://user@example.org/", "has a user name or a password"),
        ("https://:secret@example.org/", "has a user name or a password"),
        ("https://user:secret@named.example/", "has a user name or a password"),
        (f"https://example.org/{'x' * 2000}", "has more than 2000 characters"),
        (f"https://example.org/{'ü' * 500}", "has more than 2000 characters"),
    ],
)
def test_other_urls_are_refused_with_what_is_allowed(url: str, problem: str) -> None:
    with pytest.raises(InvalidParameter, match=problem) as refused:
        Receivers(["named.example"]).checked(url)
    assert "an https URL of a public host" in refused.value.message
    assert "ATELIER_WEBHOOK_HOSTS" in refused.value.message
    assert len(refused.value.message) < 300


def test_urls_are_returned_as_they_are_called() -> None:
    checked = Receivers().checked("HTTPS://Bücher.example:443/ü?a=ü#part")
    assert checked == "https://xn--bcher-kva.example/%C3%BC?a=%C3%BC#part"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/hook", "https://127.1/", "http://hooks.internal/", "http://HOOKS.internal./"]
)
def test_named_hosts_are_allowed_over_http(url: str) -> None:
    Receivers(["127.0.0.1", "Hooks.Internal"]).checked(url)
    with pytest.raises(InvalidParameter):
        Receivers(["hooks.example"]).checked(url)


def test_named_ipv6_addresses_are_allowed_with_and_without_brackets() -> None:
    assert Receivers(["::1"]).is_named("[::1]")
    assert Receivers(["[::1]"]).is_named("::1")
