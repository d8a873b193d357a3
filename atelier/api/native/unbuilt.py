"""Routes that are not built yet and answer 501."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fastapi import APIRouter
from starlette.responses import Response

from atelier.core.errors import NotSupported


class Unbuilt(NamedTuple):
    """A route and the feature it will serve."""

    method: str
    path: str
    what: str


UNBUILT = (
    Unbuilt("POST", "/generate", "Jobs"),
    Unbuilt("GET", "/status/{job_id}", "Jobs"),
    Unbuilt("GET", "/image/{job_id}", "Jobs"),
    Unbuilt("GET", "/models", "The list of models in this form (see /v1/models)"),
    Unbuilt("GET", "/loras", "LoRA"),
    Unbuilt("GET", "/gpu/status", "GPU status"),
    Unbuilt("POST", "/magic-prompt", "Prompt improvement"),
    Unbuilt("GET", "/api/cache/stats", "The result cache"),
    Unbuilt("POST", "/api/cache/clear", "The result cache"),
    Unbuilt("GET", "/api/rate-limit/stats", "Rate limits"),
    Unbuilt("GET", "/api/services/status", "Service status"),
    Unbuilt("GET", "/api/system/info", "System information"),
)


def _refusal(unbuilt: Unbuilt) -> Callable[[], Awaitable[Response]]:
    async def refuse() -> Response:
        raise NotSupported(f"{unbuilt.what} is not supported by this server yet.")

    return refuse


def _router() -> APIRouter:
    """Create a route for every row of `UNBUILT`; `GET /` lists them, the OpenAPI document does not."""
    routes = APIRouter(include_in_schema=False)
    for unbuilt in UNBUILT:
        routes.add_api_route(unbuilt.path, _refusal(unbuilt), methods=[unbuilt.method])
    return routes


router = _router()
