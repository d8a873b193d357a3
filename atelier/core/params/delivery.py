"""Params for the image files of a response: format, compression, and delivery as base64 or by URL."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

OutputFormat = Literal["png", "jpeg", "webp"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = ("png", "jpeg", "webp")

OutputCompression = Annotated[
    int | None,
    Field(ge=0, le=100, description="Quality of JPEG and WebP files; 95 and 90 by default. PNG has none."),
]

ResponseFormat = Literal["b64_json", "url"]
