"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse

from atelier.core.errors import AtelierError


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
    status: {"model": ErrorResponse} for status in (400, 404, 408, 413, 415, 429, 500, 501, 503, 504)
}


def error_body(error: AtelierError) -> dict[str, object]:
    """Return the JSON body of an error, in OpenAI's shape."""
    return {"error": {"message": str(error), "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: AtelierError) -> JSONResponse:
    """Return the response to a failed request: it says when to retry, or not to (`x-should-retry: false`)."""
    headers = {"retry-after": str(error.retry_after_s)} if error.is_retryable else {"x-should-retry": "false"}
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)
