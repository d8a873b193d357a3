"""Image files that a request asks for, and how they reach the client."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atelier.core.params.parsing import Params

OutputFormat = Literal["png", "jpeg", "webp"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = ("png", "jpeg", "webp")

ResponseFormat = Literal["b64_json", "url"]


class OutputParams(Params):
    """The format of an image file."""

    output_format: OutputFormat = "png"
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of JPEG and WebP files; 95 and 90 by default. PNG has none."
    )
