"""Images that clients send: base64, optionally as a data URL, or raw bytes in handle calls and uploads."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from atelier.core.params.parsing import Params

#: A PNG of 32×32 pixels, the example in the documentation.
_RED_CIRCLE = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX////cHh7/Hx2WAAAARElEQVR42n3MsQ2AMADEwOOFxBgwCpvBaBklY1"
    "CghCKiQ7hw4cL8s1Ssl9hmsQe9y8QZSIzqU42SseodRxOliXq/+z8eGIwO/AhZZ7UAAAAASUVORK5CYII="
)

#: JSON schema of an image in base64.
IMAGE_SCHEMA: dict[str, Any] = {
    "type": "string",
    "contentEncoding": "base64",
    "contentMediaType": "image/*",
    "examples": [_RED_CIRCLE],
}


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.startswith(("http://", "https://")):
        raise PydanticCustomError("url", "must be base64 or a data URL, because this server fetches nothing")
    text = value.partition(";base64,")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise PydanticCustomError("base64", "must be an image in base64") from error


#: An encoded image file.
ImageBytes = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema(IMAGE_SCHEMA),
]


class InspectParams(Params):
    """An image file whose metadata is asked for."""

    image: ImageBytes = Field(description="PNG, JPEG or WebP.")
