"""Handlers that turn every exception of a route into an answer, and log what is the server's own fault."""

from __future__ import annotations

import logging
import reprlib
from http import HTTPMethod

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from atelier.api.docs import DOCS
from atelier.api.errors import error_response
from atelier.api.prefix import with_prefix
from atelier.api.request_id import request_id_of
from atelier.api.request_log import record_of
from atelier.core.errors import (
    AtelierError,
    InvalidParameter,
    InvalidRequest,
    MalformedBody,
    MethodNotAllowed,
    NotFound,
    NotSupported,
)
from atelier.pipeline.record import LEFT

logger = logging.getLogger(__name__)


def install_error_handlers(app: FastAPI) -> None:
    """Register handlers for AtelierError, Starlette's own errors and all others (logged, then 500)."""

    @app.exception_handler(AtelierError)
    async def ours(request: Request, error: AtelierError) -> Response:
        record_of(request.scope).code = error.code
        if error.status >= 500 and not isinstance(error, NotSupported):
            logger.error("%s: %s %s: %s", request_id_of(request.scope), request.method, request.url.path, error)
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def the_frameworks(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 404:
            return error_response(NotFound(f"There is nothing at {path}. See {with_prefix(request, DOCS)}."))
        if error.status_code == 405:
            allowed = _allowed_methods(app, request)
            response = error_response(MethodNotAllowed(f"{path} does not take {request.method}; allowed: {allowed}."))
            response.headers["allow"] = allowed
            return response
        return error_response(InvalidRequest(str(error.detail)))

    @app.exception_handler(RequestValidationError)
    async def in_query_or_headers(_: Request, error: RequestValidationError) -> Response:
        problem = error.errors()[0]
        name = next(str(part) for part in problem["loc"][1:])
        got = reprlib.repr(problem["input"])
        return error_response(InvalidParameter(f"{name}: {problem['msg']}; got {got}.", param=name))

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, _: ClientDisconnect) -> Response:
        record_of(request.scope).code = LEFT
        return error_response(MalformedBody("The body is incomplete."))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        request_id = request_id_of(request.scope)
        record_of(request.scope).code = AtelierError.code
        logger.exception("%s: %s %s failed", request_id, request.method, request.url.path, exc_info=error)
        return error_response(AtelierError())


def _allowed_methods(app: FastAPI, request: Request) -> str:
    """Return the methods of all routes at the request's path; Starlette's `allow` header names one route's only."""
    scopes = {method: {**request.scope, "method": method} for method in HTTPMethod}
    return ", ".join(
        method
        for method, scope in sorted(scopes.items())
        if any(route.matches(scope)[0] is Match.FULL for route in app.routes)
    )
