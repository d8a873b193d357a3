"""Limits on request bodies: uncompressed, of a maximum size, in time, and all together in memory. Pure ASGI."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier.api.errors import error_response
from atelier.core.errors import AtelierError, BodyTimeout, BodyTooLarge, QueueFull, UnsupportedMediaType

_PLAIN = "identity"
#: Number of bodies of the maximum size that are held in memory at once; each stays until its request is answered.
MAX_LARGE_BODIES = 8
#: Seconds in which a body must arrive; 30 MB over 2 Mbit/s take as long.
_TIMEOUT_S = 120.0


class BodyLimit:
    """Middleware that rejects bodies before or while they are read.

    A body is rejected if it has more than `max_bytes`, if it is compressed, so that its size would be known only
    afterwards, if it takes longer than two minutes to arrive, or if all bodies together exceed `MAX_LARGE_BODIES`
    times `max_bytes`.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        #: Size of all bodies that are held or announced.
        self.num_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, body = Headers(scope=scope), _Body(self, receive)
        try:
            _check_encoding(headers.get("content-encoding", _PLAIN))
            body.announce(headers.get("content-length", ""))
        except AtelierError as error:
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, body.receive, send)
        finally:
            self.num_bytes -= body.num_bytes

    def check(self, body: _Body) -> None:
        """Raise BodyTooLarge or QueueFull if the body is too large by itself or together with all others."""
        if body.num_bytes > self._max_bytes:
            raise BodyTooLarge(f"The body is larger than the {self._max_bytes} bytes this server reads.")
        if self.num_bytes > MAX_LARGE_BODIES * self._max_bytes:
            raise QueueFull("The server holds as many large bodies as it can; try again in a moment.")


class _Body:
    """The body of one request; `num_bytes` is the announced size, or what has arrived if that is more."""

    def __init__(self, limit: BodyLimit, receive: Receive) -> None:
        self._limit = limit
        self._receive = receive
        self._num_received = 0
        self._deadline_s = asyncio.get_running_loop().time() + _TIMEOUT_S
        self._is_complete = False
        self.num_bytes = 0

    def announce(self, content_length: str) -> None:
        """Count the size in a Content-Length header; without one, bytes count when they arrive."""
        if content_length.isdecimal():
            self._count(int(content_length))

    async def receive(self) -> Message:
        """Receive the next ASGI message. Raises BodyTooLarge, QueueFull or BodyTimeout."""
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline_s):
                message = await self._receive()
        except TimeoutError:
            raise BodyTimeout(f"The body did not arrive within {_TIMEOUT_S:.0f} seconds.") from None
        self._num_received += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        self._count(self._num_received)
        return message

    def _count(self, num_bytes: int) -> None:
        grown = max(num_bytes - self.num_bytes, 0)
        self.num_bytes += grown
        self._limit.num_bytes += grown
        self._limit.check(self)


def _check_encoding(encoding: str) -> None:
    if encoding.lower() != _PLAIN:
        raise UnsupportedMediaType(f"The body is compressed ({encoding[:80]}); send it uncompressed.")
