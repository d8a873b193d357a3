"""A JSON body as the fields of a request."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.requests import Request

from atelier.core.errors import MalformedBody


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
