"""Which web pages may call the server: those on this machine, and origins from the settings. Pure ASGI."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from atelier.api.errors import error_response
from atelier.core.errors import Forbidden

_ON_THIS_MACHINE = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
#: Response headers that scripts of other origins may read.
_EXPOSED = ("x-request-id", "retry-after", "x-should-retry", "x-generation-metadata", "content-disposition")


def origin_of(url: str) -> str:
    """Return the origin of a URL: scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class Origins:
    """Answers CORS preflights of allowed origins, and rejects requests of all others.

    Only browsers send an `Origin`. Without this check any page that a user visits could make a server on the user's
    machine work, because browsers send forms to other origins without a preflight.
    """

    def __init__(self, app: ASGIApp, *, allowed: Collection[str]) -> None:
        """Allow the origins in `allowed`, such as https://example.org; "*" allows all."""
        self._app = app
        self._cors = CORSMiddleware(
            app,
            allow_origins=tuple(allowed),
            allow_origin_regex=_ON_THIS_MACHINE,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin") if scope["type"] in ("http", "websocket") else None
        if origin is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            if self._cors.is_allowed_origin(origin):
                await self._app(scope, receive, send)
            else:
                await WebSocketClose(reason="this page may not call the server")(scope, receive, send)
        elif self._cors.is_allowed_origin(origin):
            await self._cors(scope, receive, send)
        else:
            message = f"Pages of {origin[:200]} may not call this server; see ATELIER_ALLOWED_ORIGINS."
            await error_response(Forbidden(message))(scope, receive, send)
