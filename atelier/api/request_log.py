"""A record of every HTTP request, which is logged and counted when the request has ended. Pure ASGI."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier.api.request_id import request_id_of
from atelier.pipeline.record import LEFT, Observe, RequestRecord

_KEY = "request_record"
#: Endpoint of all requests to addresses that do not exist; clients invent as many as they like.
_UNKNOWN = "no such address"
#: Endpoints that are asked every second or so, and whose successes tell nothing.
_QUIET = frozenset(
    f"GET {path}"
    for path in ("/health", "/ready", "/metrics", "/gpu/status", "/api/services/status", "/api/system/info")
)


def record_of(scope: Scope) -> RequestRecord:
    """Return the record that the `RequestLog` middleware stored in the scope."""
    record: RequestRecord = scope["state"][_KEY]
    return record


class RequestLog:
    """Middleware that passes the record of every request to `observe` when its answer has been sent.

    Successes of probes are left out. Must come after `RequestIds`.
    """

    def __init__(self, app: ASGIApp, *, observe: Observe) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(request_id=request_id_of(scope), endpoint=_UNKNOWN)
        scope["state"][_KEY] = record

        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        except asyncio.CancelledError:
            record.code = LEFT
            raise
        finally:
            if route := scope.get("route"):
                record.endpoint = f"{scope['method']} {route.path}"
            if record.endpoint not in _QUIET or record.status >= 400:
                self._observe(record)
