"""A client's picture made larger."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Size
from atelier.core.errors import InvalidParameter
from atelier.core.params import UpscaleParams, UpscaleStep
from atelier.core.upscaling import MAX_UPSCALED_PIXELS
from atelier.imaging.formats import encode_picture
from atelier.imaging.inputs import read_picture, whole_pixels
from atelier.pipeline.stages import Stages


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedUpscale:
    #: None: bicubic.
    upscaler: str | None
    size: Size
    scale: float

    def parameters(self) -> dict[str, str | float]:
        """Its fields by their names on the wire."""
        model: dict[str, str | float] = {} if self.upscaler is None else {"model": self.upscaler}
        return {"scale": self.scale, **model}


@dataclass(frozen=True, slots=True, kw_only=True)
class Enlarged:
    #: The encoded file.
    data: bytes
    size: Size
    #: The upscaler's id, or "bicubic" where there are no weights.
    made_by: str


def plan_upscale(step: UpscaleStep, size: Size, catalogue: Catalogue, *, param: str) -> PlannedUpscale:
    """What makes a picture of this size how large. Raises ModelNotFound, or InvalidParameter if that is too large."""
    entry = catalogue.upscaler(step.model)
    large = Size(width=round(size.width * step.scale), height=round(size.height * step.scale))
    if large.width * large.height > MAX_UPSCALED_PIXELS:
        raise InvalidParameter(
            f"{param}: {size} times {step.scale} is {large}; at most {MAX_UPSCALED_PIXELS} pixels are made.",
            param=param,
        )
    return PlannedUpscale(upscaler=None if entry is None else entry.id, size=large, scale=step.scale)


async def enlarge(stages: Stages, catalogue: Catalogue, params: UpscaleParams) -> Enlarged:
    """Raises InvalidParameter or ModelNotFound."""
    picture = await asyncio.to_thread(read_picture, params.image, param="image")
    size = Size(width=picture.width, height=picture.height)
    plan = plan_upscale(params, size, catalogue, param="scale")
    pixels = await asyncio.to_thread(whole_pixels, picture)
    large = await stages.upscale(plan.upscaler, pixels, width=plan.size.width, height=plan.size.height)
    data = await asyncio.to_thread(
        encode_picture, large.pixels, params.output_format, quality=params.output_compression
    )
    return Enlarged(data=data, size=plan.size, made_by=large.made_by)
