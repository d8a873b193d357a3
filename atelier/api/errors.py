"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
from http import HTTPMethod
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from atelier.api.request_id import request_id_of
from atelier.core.errors import (
    AtelierError,
    InvalidRequest,
    MalformedBody,
    MethodNotAllowed,
    NotFound,
    NotSupported,
    QueueFull,
)

logger = logging.getLogger(__name__)


class ErrorBody(BaseModel):
    """An error, with the field that caused it if there is one."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorBody


#: OpenAPI responses for the errors of routes that read a body.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 404, 413, 415, 429, 500, 501, 503, 504)
}


def error_body(error: AtelierError) -> dict[str, object]:
    """Return the JSON body of an error, in OpenAI's shape."""
    return {"error": {"message": str(error), "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: AtelierError) -> JSONResponse:
    """Return the response to a failed request, with `x-should-retry: false` if a retry would fail, too."""
    headers = {} if error.is_retryable else {"x-should-retry": "false"}
    if isinstance(error, QueueFull):
        headers["retry-after"] = str(error.retry_after_s)
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


def install_error_handlers(app: FastAPI) -> None:
    """Register handlers for AtelierError, Starlette's own errors and all others (logged, then 500)."""

    @app.exception_handler(AtelierError)
    async def ours(request: Request, error: AtelierError) -> Response:
        if error.status >= 500 and not isinstance(error, NotSupported):
            logger.error("%s: %s %s: %s", request_id_of(request.scope), request.method, request.url.path, error)
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def the_frameworks(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 404:
            return error_response(NotFound(f"There is nothing at {path}. See /docs."))
        if error.status_code == 405:
            allowed = _allowed_methods(app, request)
            response = error_response(MethodNotAllowed(f"{path} does not take {request.method}; allowed: {allowed}."))
            response.headers["allow"] = allowed
            return response
        return error_response(InvalidRequest(str(error.detail)))

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, _: ClientDisconnect) -> Response:
        logger.info("%s: the client left before its body was complete", request_id_of(request.scope))
        return error_response(MalformedBody("The body is incomplete."))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        request_id = request_id_of(request.scope)
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
