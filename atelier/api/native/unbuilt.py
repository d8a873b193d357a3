"""Routes that are not built yet and answer 501."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fastapi import APIRouter
from fastapi.utils import get_path_param_names
from starlette.responses import Response

from atelier.api.errors import ErrorResponse
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


def _path_parameter(name: str) -> dict[str, object]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _refusal(unbuilt: Unbuilt) -> Callable[[], Awaitable[Response]]:
    async def refuse() -> Response:
        raise NotSupported(f"{unbuilt.what} is not supported by this server yet.")

    return refuse


def _router() -> APIRouter:
    """Create a route for every row of `UNBUILT`."""
    routes = APIRouter(tags=["Not supported yet"])
    for unbuilt in UNBUILT:
        routes.add_api_route(
            unbuilt.path,
            _refusal(unbuilt),
            methods=[unbuilt.method],
            name=f"{unbuilt.method} {unbuilt.path}",
            summary=f"{unbuilt.what}: answers 501",
            status_code=501,
            response_model=ErrorResponse,
            openapi_extra={"parameters": [_path_parameter(name) for name in get_path_param_names(unbuilt.path)]},
        )
    return routes


router = _router()
