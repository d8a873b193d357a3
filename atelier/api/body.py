"""Bodies of requests: a JSON object as fields, and how bodies are described in the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from atelier.core.errors import MalformedBody
from atelier.core.params import Params


def json_body(kind: type[Params]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads such fields from JSON."""
    return _body(kind, "application/json")


def form_body(kind: type[Params]) -> dict[str, Any]:
    """The same from a multipart form."""
    return _body(kind, "multipart/form-data")


def either_body(kind: type[Params]) -> dict[str, Any]:
    """The same from either."""
    return _body(kind, "application/json", "multipart/form-data")


def _body(kind: type[Params], *media_types: str) -> dict[str, Any]:
    content = {media_type: {"schema": kind.model_json_schema()} for media_type in media_types}
    return {"requestBody": {"required": True, "content": content}}


async def json_fields(request: Request) -> Mapping[str, object]:
    """Read a JSON object.

    Raises:
        MalformedBody: it is not UTF-8, not JSON, or not an object.
    """
    body = await request.body()
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"The body is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise MalformedBody(f"The body must be a JSON object; got {type(fields).__name__}.")
    return fields
