"""Pictures made larger: a client's own, and a generation's at its end or for a second pass."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace

import numpy as np

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import PIXELS_PER_LATENT, ModelEntry, Size
from atelier.core.errors import InvalidParameter, NotSupported
from atelier.core.params import HiresStep, Scalar, UpscaleParams, UpscaleStep
from atelier.core.sampling import SAMPLERS, Sampling
from atelier.core.upscaling import FOLD_PX, MAX_READ_PIXELS, MAX_TOGETHER_PIXELS, MAX_UPSCALED_PIXELS
from atelier.imaging.formats import check_output, encode_picture
from atelier.imaging.inputs import read_picture
from atelier.pipeline.inputs import Inputs
from atelier.pipeline.stages import Pixels, Stages


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedUpscale:
    #: None: bicubic.
    upscaler: str | None
    size: Size
    scale: float

    def parameters(self) -> dict[str, Scalar]:
        """Its fields by their names on the wire."""
        return {"scale": self.scale} if self.upscaler is None else {"scale": self.scale, "model": self.upscaler}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedHires:
    """The second pass: what the pictures are before it, and its sampling."""

    upscale: PlannedUpscale
    sampling: Sampling

    @property
    def size(self) -> Size:
        return self.upscale.size

    def parameters(self) -> dict[str, Scalar]:
        """Its fields by their names on the wire."""
        sampling = self.sampling
        return {
            **self.upscale.parameters(),
            "strength": sampling.strength,
            "steps": sampling.num_inference_steps,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Enlarged:
    #: The encoded file.
    data: bytes
    size: Size
    #: The upscaler's id, or "bicubic" where there are no weights.
    made_by: str


def plan_upscale(
    step: UpscaleStep, size: Size, catalogue: Catalogue, *, num_pictures: int = 1, param: str
) -> PlannedUpscale:
    """What makes pictures of this size how large. Raises ModelNotFound, or InvalidParameter if that is too large."""
    entry = catalogue.upscaler(step.model)
    large = Size(width=round(size.width * step.scale), height=round(size.height * step.scale))
    if large.width * large.height > MAX_UPSCALED_PIXELS:
        raise InvalidParameter(
            f"{param}: {size} times {step.scale} is {large}; at most {MAX_UPSCALED_PIXELS} pixels are made.",
            param=param,
        )
    if large.width * large.height * num_pictures > MAX_TOGETHER_PIXELS:
        raise InvalidParameter(
            f"{param}: {num_pictures} pictures of {large}; at most {MAX_TOGETHER_PIXELS} pixels are made together.",
            param=param,
        )
    if entry is not None and _read_by_network(size) > MAX_READ_PIXELS:
        raise InvalidParameter(
            f"{param}: {entry.id} reads {MAX_READ_PIXELS} pixels at most; a picture of {size} is larger.", param=param
        )
    return PlannedUpscale(upscaler=None if entry is None else entry.id, size=large, scale=step.scale)


def plan_hires(
    hires: HiresStep, inputs: Inputs, size: Size, sampling: Sampling, entry: ModelEntry, catalogue: Catalogue
) -> PlannedHires:
    """Raises NotSupported beside controls or a mask, InvalidParameter or ModelNotFound."""
    if inputs.control_images or inputs.mask_image is not None:
        raise NotSupported("hires goes with neither controls nor a mask yet.", param="hires")
    step = plan_upscale(hires, size, catalogue, param="hires")
    width, height = (
        PIXELS_PER_LATENT * round(side / PIXELS_PER_LATENT) for side in (step.size.width, step.size.height)
    )
    large = Size(width=width, height=height)
    if not entry.sides_px.allow(large):
        raise InvalidParameter(
            f"hires: {size} times {hires.scale} is {large}; {entry.id} draws sides of {entry.sides_px.min} to "
            f"{entry.sides_px.max} pixels. Use upscale for more.",
            param="hires",
        )
    second = replace(
        sampling, num_inference_steps=hires.steps or sampling.num_inference_steps, strength=hires.strength
    )
    if second.num_taken_steps == 0 or second.num_inference_steps > SAMPLERS[second.sampler].max_steps:
        raise InvalidParameter(
            f"hires: {hires.strength} of {second.num_inference_steps} steps is none, or too many for "
            f"{second.sampler}, which takes {SAMPLERS[second.sampler].max_steps}.",
            param="hires",
        )
    return PlannedHires(upscale=replace(step, size=large), sampling=second)


def pixels_to_enlarge(params: UpscaleParams) -> Pixels:
    """[height, width, 3], or 4 with its alpha. Raises InvalidParameter."""
    with read_picture(params.image, param="image") as picture:
        return np.asarray(picture)


async def enlarge(stages: Stages, catalogue: Catalogue, params: UpscaleParams, pixels: Pixels) -> Enlarged:
    """Raises InvalidParameter or ModelNotFound."""
    height, width = pixels.shape[:2]
    plan = plan_upscale(params, Size(width=width, height=height), catalogue, param="scale")
    check_output(params.output_format, params.output_compression, width=plan.size.width, height=plan.size.height)
    large = await stages.upscale(plan.upscaler, pixels, "fast", width=plan.size.width, height=plan.size.height)
    data = await asyncio.to_thread(
        encode_picture, large.pixels, params.output_format, quality=params.output_compression
    )
    return Enlarged(data=data, size=plan.size, made_by=large.made_by)


def _read_by_network(size: Size) -> int:
    """Pixels, with what fills the sides up."""
    return math.prod(math.ceil(side / FOLD_PX) * FOLD_PX for side in (size.width, size.height))
