"""Limits on request bodies: uncompressed, and of a maximum size, enforced while a body arrives. Pure ASGI."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier.api.errors import error_response
from atelier.core.errors import BodyTooLarge, UnsupportedMediaType

_PLAIN = "identity"


class BodyLimit:
    """Rejects bodies of more than `max_bytes`, and compressed ones, whose size would be known only afterwards."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        encoding = headers.get("content-encoding", _PLAIN)
        if encoding.lower() != _PLAIN:
            error = UnsupportedMediaType(f"The body is compressed ({encoding[:80]}); send it uncompressed.")
            await error_response(error)(scope, receive, send)
            return
        refusal = BodyTooLarge(f"The body is larger than the {self._max_bytes} bytes this server reads.")
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await error_response(refusal)(scope, receive, send)
            return
        num_bytes = 0

        async def counting_receive() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise refusal
            return message

        await self._app(scope, counting_receive, send)
