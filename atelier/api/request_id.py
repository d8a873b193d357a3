"""An id for every HTTP request: known to routes and the engine, returned as `x-request-id`. Pure ASGI."""

from __future__ import annotations

import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier.core.denoising import RequestId

_KEY = "request_id"


def new_request_id() -> RequestId:
    """Draw a random id; called where a request enters the server."""
    return RequestId(f"req_{secrets.token_hex(12)}")


def request_id_of(scope: Scope) -> RequestId:
    """Return the request id that the `RequestIds` middleware stored in the scope."""
    request_id: RequestId = scope["state"][_KEY]
    return request_id


class RequestIds:
    """Middleware that gives every HTTP request an id and returns it in the `x-request-id` header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_request_id()
        scope.setdefault("state", {})[_KEY] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)
