"""Routes that are not built yet and answer 501."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fastapi import APIRouter
from starlette.responses import Response

from atelier.core.errors import NotSupported


class Unbuilt(NamedTuple):
    """A route, and what it answers: what is not supported, and what to use instead if there is something."""

    method: str
    path: str
    message: str


UNBUILT = (
    Unbuilt("POST", "/magic-prompt", "Improving a prompt is not supported; send it as it should be drawn."),
    Unbuilt("GET", "/api/rate-limit/stats", "Rate limits are not supported; use GET /metrics for waiting requests."),
)


def _refusal(unbuilt: Unbuilt) -> Callable[[], Awaitable[Response]]:
    async def refuse() -> Response:
        raise NotSupported(unbuilt.message)

    return refuse


def _router() -> APIRouter:
    """Create a route for every row of `UNBUILT`; `GET /` lists them, the OpenAPI document does not."""
    routes = APIRouter(include_in_schema=False)
    for unbuilt in UNBUILT:
        routes.add_api_route(unbuilt.path, _refusal(unbuilt), methods=[unbuilt.method])
    return routes


router = _router()
