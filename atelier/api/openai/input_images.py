"""Input images of OpenAI's edits and variations: one or several, in base64 or as OpenAI's JSON refers to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from atelier.core.params.parsing import at_most
from atelier.core.params.pictures import IMAGE_SCHEMA, ImageBytes

_MOST = 16
_REFERENCE: dict[str, Any] = {
    "type": "object",
    "title": "ImageReference",
    "properties": {"image_url": {**IMAGE_SCHEMA, "description": "A data URL. Nothing is fetched from other URLs."}},
    "required": ["image_url"],
    "additionalProperties": False,
}
_ONE: list[dict[str, Any]] = [IMAGE_SCHEMA, _REFERENCE]


def _referred(value: object) -> object:
    """Return the data URL in `{"image_url": …}`, and any other value as it is."""
    if not isinstance(value, Mapping):
        return value
    if "file_id" in value:
        raise PydanticCustomError("file_id", "this server keeps no files by file_id; send a data URL as image_url")
    if value.keys() != {"image_url"}:
        raise PydanticCustomError("reference", "must be an image in base64, or an object with only image_url")
    return value["image_url"]


def _listed(value: object) -> object:
    return [value] if isinstance(value, (str, bytes, Mapping)) else value


def _one_or_several(most: int) -> WithJsonSchema:
    several = {"type": "array", "minItems": 1, "maxItems": most, "items": {"anyOf": _ONE}}
    return WithJsonSchema({"anyOf": [*_ONE, several]})


#: An encoded image file, which JSON may also send as `{"image_url": "data:…"}`.
InputImage = Annotated[ImageBytes, BeforeValidator(_referred), WithJsonSchema({"anyOf": _ONE})]
#: One to sixteen images; a single one may be sent without a list.
InputImages = Annotated[
    list[InputImage],
    BeforeValidator(_listed),
    at_most(_MOST),
    Field(min_length=1, max_length=_MOST),
    _one_or_several(_MOST),
]
#: One image, in a list or without it.
OneInputImage = Annotated[
    list[InputImage], BeforeValidator(_listed), at_most(1), Field(min_length=1, max_length=1), _one_or_several(1)
]
