"""An id for every HTTP request: the client's `x-request-id` or a random one. Pure ASGI.

Routes, log lines and the engine know a request by it, and the answer returns it.
"""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier.api.errors import error_response
from atelier.core.denoising import RequestId
from atelier.core.errors import InvalidRequest

_KEY, _HEADER = "request_id", "x-request-id"
#: Ids that are safe in log lines and in headers.
_PLAIN = re.compile(r"[\w.:@=+/-]{1,128}", re.ASCII)


def new_request_id() -> RequestId:
    """Draw a random id; called where a request enters the server."""
    return RequestId(f"req_{secrets.token_hex(12)}")


def request_id_of(scope: Scope) -> RequestId:
    """Return the request id that the `RequestIds` middleware stored in the scope."""
    request_id: RequestId = scope["state"][_KEY]
    return request_id


class RequestIds:
    """Middleware that gives every HTTP request an id, and rejects a client's id that is long or not plain."""

    def __init__(self, app: ASGIApp, *, returns_id: bool = True) -> None:
        """With `returns_id`, answers carry the id as `x-request-id`."""
        self._app = app
        self._returns_id = returns_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(_HEADER)
        is_plain = given is not None and _PLAIN.fullmatch(given) is not None
        request_id = RequestId(given) if given is not None and is_plain else new_request_id()
        scope.setdefault("state", {})[_KEY] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start" and self._returns_id:
                MutableHeaders(scope=message)[_HEADER] = request_id
            await send(message)

        if given is not None and not is_plain:
            error = InvalidRequest(f"{_HEADER}: must be at most 128 letters, digits and .:@=+/_-.", param=_HEADER)
            await error_response(error)(scope, receive, send_with_id)
            return
        await self._app(scope, receive, send_with_id)
