"""Request bodies: reading a JSON object, and describing bodies in the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from atelier.core.errors import MalformedBody, UnsupportedMediaType
from atelier.core.params.parsing import Params

#: Where the OpenAPI document has the schemas that others refer to.
_REF_TEMPLATE = "#/components/schemas/{model}"
_NULL = {"type": "null"}
_JSON, _FORM = "application/json", "multipart/form-data"
_JSON_TYPE = re.compile(r"application/([\w.-]+\+)?json\s*(;|$)", re.IGNORECASE)
#: Maximum number of values and commas in a JSON text; so many take 10 ms to parse and 20 MB of memory.
_MAX_VALUES = 200_000


def json_body(kind: type[Params]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads params of this kind from JSON."""
    return _body({_JSON: _schema(kind)})


def json_body_or_list(kind: type[Params], other: type[Params], *, max_items: int) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads params of one of two kinds, or a list of the first."""
    listed = {"type": "array", "minItems": 1, "maxItems": max_items, "items": _schema(kind)}
    return _body({_JSON: {"anyOf": [_schema(kind), _schema(other), listed]}})


def either_body(kind: type[Params]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads params of this kind from JSON or a multipart form."""
    return _body({_JSON: _schema(kind), _FORM: _form_schema(kind)})


def _body(schemas: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    content = {media_type: {"schema": schema} for media_type, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


def _schema(kind: type[Params]) -> dict[str, Any]:
    """Return the JSON schema of params, in which every optional field may also be null."""
    schema = kind.model_json_schema(ref_template=_REF_TEMPLATE)
    for name, field in schema["properties"].items():
        if name not in schema.get("required", ()) and _NULL not in field.get("anyOf", []):
            outer = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
            schema["properties"][name] = {**outer, "anyOf": [field, _NULL]}
    return schema


def _form_schema(kind: type[Params]) -> dict[str, Any]:
    """Return the JSON schema of params as a multipart form, with images as file uploads."""
    schema = _schema(kind)
    fields = {name: _form_field(field) for name, field in schema["properties"].items()}
    return {**schema, "title": f"{schema['title']}Form", "properties": fields}


def _form_field(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a field as a form sends it: an image in base64 becomes an upload."""
    match field:
        case {"contentEncoding": "base64", "examples": _, **rest}:
            return {**rest, "contentMediaType": "application/octet-stream"}
        case {"items": items}:
            return {**field, "items": _form_field(items)}
        case {"anyOf": options, **rest}:
            if any("contentMediaType" in option for option in options):
                # An object beside an image is JSON's way to refer to one.
                options = [option for option in options if option.get("type") != "object"]
            sent = [_form_field(option) for option in options]
            return {**rest, **(sent[0] if len(sent) == 1 else {"anyOf": sent})}
        case _:
            return dict(field)


def is_json(request: Request) -> bool:
    """Return whether the body is declared as JSON."""
    return _JSON_TYPE.match(request.headers.get("content-type", "")) is not None


async def json_fields(request: Request) -> Mapping[str, object]:
    """Read the fields of a request whose body is a JSON object.

    Raises what `json_value` raises, and MalformedBody for anything but an object.
    """
    return as_object(await json_value(request))


async def json_value(request: Request) -> object:
    """Read a request's JSON.

    Raises:
        UnsupportedMediaType: the content type is not JSON. A web page of any origin may send other types unasked.
        MalformedBody: the body is not UTF-8 or not JSON.
    """
    if not is_json(request):
        content_type = request.headers.get("content-type", "none")
        raise UnsupportedMediaType(f"The content type must be {_JSON}; got {content_type[:80]}.")
    try:
        return parse_json((await request.body()).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"The body is not valid JSON: {error}.") from error


def as_object(value: object) -> Mapping[str, object]:
    """Return a JSON object. Raises MalformedBody for any other value."""
    if not isinstance(value, dict):
        raise MalformedBody(f"The body must be a JSON object; got {type(value).__name__}.")
    return value


def parse_json(text: str) -> object:
    """Parse JSON text.

    Raises:
        MalformedBody: the text may hold more than `_MAX_VALUES` values.
        ValueError, RecursionError: the text is not JSON, or nested too deeply.
    """
    # Every value but the first follows one of these. Base64 has none of them; a prompt may have a few.
    if sum(map(text.count, ",[{")) > _MAX_VALUES:
        raise MalformedBody(f"The JSON has too many values or commas; at most {_MAX_VALUES} are read.")
    return json.loads(text)
