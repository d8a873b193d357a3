"""Middleware of Serve's HTTP proxy: what the proxy itself cannot do is answered like our other errors.

If a Router dies during a request, the proxy of Ray 2.60 sends nothing, so that the client gets a 500 in plain text.
What it rejects is answered in plain text, too. Its processes import this module if
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names `middleware`. They serve all applications on the cluster: plain text
of other applications with the status 408, 429 or 503 is replaced as well.
"""

from __future__ import annotations

import json

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier.api.errors import error_body, error_response
from atelier.core.errors import AtelierError, DeadlineExceeded, QueueFull, ReplicaLost

#: Paths that the proxy serves itself, such as /-/healthz.
_SERVES_OWN = "/-/"
_ROUTER_LOST = "The Router was lost while it worked on the request; try again."


def middleware() -> list[Middleware]:
    """Return the middleware for Serve's proxy."""
    return [Middleware(ProxyErrors)]


class ProxyErrors:
    """Middleware that answers for a proxy that does not, and in place of one that answers in plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_SERVES_OWN):
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        await self._app(scope, receive, answer.send)
        if answer.error is not None:
            await error_response(answer.error)(scope, receive, send)
        elif not answer.is_complete and answer.is_event_stream:
            event = f"event: error\ndata: {json.dumps(error_body(ReplicaLost(_ROUTER_LOST)))}\n\n"
            await send({"type": "http.response.body", "body": event.encode()})


class _Answer:
    """An answer on its way to the client. `error` is what to send instead of it, or None."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.error: AtelierError | None = ReplicaLost(_ROUTER_LOST)
        self.is_event_stream = False
        self.is_complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = Headers(raw=message["headers"])
            self.error = _in_place_of(message["status"], headers)
            self.is_event_stream = headers.get("content-type", "").startswith("text/event-stream")
        if self.error is None:
            self.is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await self._send(message)


def _in_place_of(status: int, headers: Headers) -> AtelierError | None:
    """Return the error for an answer of the proxy itself; None for an answer of an application."""
    if not headers.get("content-type", "").startswith("text/plain"):
        return None
    match status:
        case 408:
            return DeadlineExceeded("Not finished within http_options.request_timeout_s of this server.")
        case 429:
            return QueueFull(retry_after_s=int(headers.get("retry-after", "1")))
        case 503:
            return ReplicaLost("No Router is running; try again.")
        case _:
            return None
