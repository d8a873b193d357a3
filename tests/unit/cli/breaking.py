"""An application in front of another that breaks answers, as a network or a proxy does."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Whether an answer ends here: it sees the request's method and path, and the message that is to be sent.
Breaks = Callable[[str, str, Message], bool]


class Breaking:
    """Passes requests on, and drops the connection of an answer where a test says so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        #: What breaks, each once.
        self.breaks: list[Breaks] = []
        #: Number of requests, from the next one on, that are answered as by a proxy without a server behind it.
        self.num_unavailable = 0
        #: Method, path and Last-Event-ID of each request.
        self.requests: list[tuple[str, str, str | None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = dict(scope["headers"]).get(b"last-event-id")
        self.requests.append((scope["method"], scope["path"], None if seen is None else seen.decode()))
        if self.num_unavailable:
            self.num_unavailable -= 1
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b"no replica"})
            return

        async def passed_on(message: Message) -> None:
            for one in self.breaks:
                if one(scope["method"], scope["path"], message):
                    self.breaks.remove(one)
                    raise ConnectionAbortedError("dropped by a test")
            await send(message)

        await self._app(scope, receive, passed_on)
