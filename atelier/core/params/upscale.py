"""Params for enlarging: a client's image, generated images, or a second denoising pass (hires)."""

from __future__ import annotations

from pydantic import Field

from atelier.core.params.delivery import OutputCompression, OutputFormat, ResponseFormat
from atelier.core.params.parsing import MAX_NAME_CHARS, Params
from atelier.core.params.pictures import ImageBytes
from atelier.core.sampling import NumInferenceSteps, Strength
from atelier.core.upscaling import MAX_SCALE


class UpscaleStep(Params):
    """Scale and upscaler of an enlargement."""

    scale: float = Field(MAX_SCALE, ge=1, le=MAX_SCALE, description="Factor of width and height.")
    model: str | None = Field(
        None, max_length=MAX_NAME_CHARS, description="Id of an upscaler from GET /; the server's first by default."
    )


class HiresStep(UpscaleStep):
    """A second pass: the images are enlarged, then denoised again at their new size."""

    scale: float = Field(2, gt=1, le=MAX_SCALE, description="Factor of width and height.")
    strength: Strength = Field(0.5, description="How far the second pass departs from the first.")
    steps: NumInferenceSteps | None = Field(
        None, description="Steps of the second pass; those of the first by default."
    )


class UpscaleParams(UpscaleStep):
    """An image to enlarge."""

    image: ImageBytes = Field(description="PNG, JPEG or WebP; transparency is kept.")
    output_format: OutputFormat = Field("png", description="Format of the image file.")
    output_compression: OutputCompression = None
    response_format: ResponseFormat = Field("b64_json", description="In the answer as base64, or behind a URL.")
