"""Request bodies: reading a JSON object, and describing bodies in the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from atelier.core.errors import MalformedBody
from atelier.core.params.parsing import Params

_NULL = {"type": "null"}
_JSON, _FORM = "application/json", "multipart/form-data"


def json_body(kind: type[Params]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads params of this kind from JSON."""
    return _body({_JSON: _schema(kind)})


def form_body(kind: type[Params]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads params of this kind from a multipart form."""
    return _body({_FORM: _form_schema(kind)})


def either_body(kind: type[Params]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads params of this kind from JSON or a multipart form."""
    return _body({_JSON: _schema(kind), _FORM: _form_schema(kind)})


def _body(schemas: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    content = {media_type: {"schema": schema} for media_type, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


def _schema(kind: type[Params]) -> dict[str, Any]:
    """Return the JSON schema of params, in which every optional field may also be null."""
    schema = kind.model_json_schema()
    for name, field in schema["properties"].items():
        if name not in schema["required"] and _NULL not in field.get("anyOf", []):
            outer = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
            schema["properties"][name] = {**outer, "anyOf": [field, _NULL]}
    return schema


def _form_schema(kind: type[Params]) -> dict[str, Any]:
    """Return the JSON schema of params as a multipart form, with images as file uploads."""
    schema = _schema(kind)
    for field in schema["properties"].values():
        for part in (field, field.get("items", {}), *field.get("anyOf", [])):
            if part.get("contentEncoding") == "base64":
                del part["contentEncoding"], part["examples"]
                part["contentMediaType"] = "application/octet-stream"
    return schema


async def json_fields(request: Request) -> Mapping[str, object]:
    """Read the fields of a request whose body is a JSON object.

    Raises:
        MalformedBody: the body is not UTF-8, not JSON, or not an object.
    """
    body = await request.body()
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"The body is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise MalformedBody(f"The body must be a JSON object; got {type(fields).__name__}.")
    return fields
