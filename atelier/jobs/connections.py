"""Connections to receivers of webhooks, made only to addresses that have been checked.

A host is looked up once for a connection, and the connection is made to one of the addresses that were found. In a
second look-up its name server could answer with another address (DNS rebinding). TLS and the `Host` header have the
name.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import ip_address

import httpcore2

from atelier.jobs.receivers import Receivers, is_public


class HostNotFound(httpcore2.ConnectError):
    """The host has no address."""


class HostNotPublic(httpcore2.ConnectError):
    """The host has an address that is not public."""


class CheckedConnections(httpcore2.AsyncNetworkBackend):
    """Opens TCP connections to allowed receivers."""

    def __init__(self, receivers: Receivers, network: httpcore2.AsyncNetworkBackend) -> None:
        """`network` opens connections to whatever address it gets."""
        self._receivers = receivers
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address of a host that answers within `timeout`.

        Raises HostNotPublic if any of its addresses is not public and the host is not named by the operator.
        """
        addresses = await _looked_up(host, port)
        is_allowed = self._receivers.is_named(host) or all(is_public(ip_address(one)) for one in addresses)
        if not is_allowed:
            raise HostNotPublic
        problem: Exception = HostNotFound()
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
        raise problem


async def _looked_up(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host, each once, in the order in which they should be tried."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise HostNotFound from error
    return list(dict.fromkeys(str(socket_address[0]) for *_, socket_address in found))
