"""Who may receive webhooks: hosts at public addresses, over https, and hosts that the operator of the server names.

A client names the URL, and the server calls it from inside its own network. Without these rules a client could reach
machines that only the server reaches, such as a cloud's metadata service.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from pydantic_core import Url

from atelier.core.errors import InvalidParameter

MAX_URL_CHARS = 2000

Address = IPv4Address | IPv6Address

_GLOBAL_UNICAST = ip_network("2000::/3")
#: IPv6 addresses that end with the IPv4 address to which a translator forwards (RFC 6052).
_TRANSLATED = ip_network("64:ff9b::/96")
#: Addresses that Python 3.11 counts as global. They lead into tunnels, to the nearest router, or are for documents.
_SPECIAL = [ip_network(name) for name in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")]
_ALLOWED = "an https URL of a public host, without a user name, or one of a host in ATELIER_WEBHOOK_HOSTS"


class Receivers:
    """The receivers that are allowed."""

    def __init__(self, named_hosts: Iterable[str] = ()) -> None:
        """`named_hosts` may have private addresses and be called over http. They are names or IP addresses."""
        self._named_hosts = {_plain(host) for host in named_hosts}

    def is_named(self, host: str) -> bool:
        """Return whether the operator names this host."""
        return _plain(host) in self._named_hosts

    def checked(self, url: str) -> str:
        """Return a URL in its normal form, in ASCII. Raises InvalidParameter if its receiver is not allowed.

        A host that is a name is not looked up: its addresses may be others when it is called.
        """
        try:
            # As browsers read it: `0x7f.1` and `2130706433` become `127.0.0.1`.
            parsed = Url(url)
        except ValueError:
            raise _not_allowed(url, "is not a URL") from None
        problem = self._problem(parsed)
        if problem is not None:
            raise _not_allowed(url, problem)
        return str(parsed)

    def _problem(self, url: Url) -> str | None:
        """Return why a URL is not allowed, or None if it is."""
        host = url.host or ""
        address = _address_in(host)
        if len(str(url)) > MAX_URL_CHARS:
            return f"has more than {MAX_URL_CHARS} characters"
        if url.username or url.password:
            return "has a user name or a password"
        if self.is_named(host) and url.scheme in ("http", "https"):
            return None
        if url.scheme != "https" or not host:
            return "is not an https URL"
        if address is not None and not is_public(address):
            return "has no public address"
        return None


def is_public(address: Address) -> bool:
    """Return whether an address belongs to one host on the internet, and leads to no other address."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _TRANSLATED:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in _GLOBAL_UNICAST:
            return False
    is_special = address.is_multicast or any(address in network for network in _SPECIAL)
    return address.is_global and not is_special


def _not_allowed(url: str, problem: str) -> InvalidParameter:
    return InvalidParameter(f"webhook: {reprlib.repr(url)} {problem}; it must be {_ALLOWED}.", param="webhook")


def _address_in(host: str) -> Address | None:
    """Return the address that a host is written as, or None for a name."""
    try:
        return ip_address(_plain(host))
    except ValueError:
        return None


def _plain(host: str) -> str:
    """Return a host in small letters, without the brackets of an IPv6 address and the dot at the end of a name."""
    return host.lower().strip("[]").removesuffix(".")
