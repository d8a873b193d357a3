"""Enlargements: of a client's own image, of a generation's images at its end, or before its second pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.denoising import Pass
from atelier.core.errors import InvalidParameter, NotSupported
from atelier.core.geometry import Size
from atelier.core.params.generate import GenerateParams
from atelier.core.params.upscale import HiresStep, UpscaleParams, UpscaleStep
from atelier.core.sampling import SAMPLERS
from atelier.core.upscaling import FOLD_PX, MAX_READ_PIXELS, MAX_TOGETHER_PIXELS, MAX_UPSCALED_PIXELS
from atelier.imaging.formats import check_output


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaledImage:
    """A client's image at its new size."""

    #: The encoded file.
    data: bytes
    size: Size
    #: Id of the upscaler that made it, or "bicubic".
    upscaler: str


def resolve_upscale(
    step: UpscaleStep, size: Size, catalogue: Catalogue, *, num_images: int = 1, field: str | None
) -> str | None:
    """Return the id of the upscaler for an enlargement of images of this size; None is bicubic resampling.

    Errors name the request's `field` that holds the step; it is None if the request itself is the step.

    Raises:
        ModelNotFound: the upscaler is not served here.
        InvalidParameter: an enlarged image, all of them together, or the network's input is too large.
    """
    entry = catalogue.upscaler(step.model, param="model" if field is None else f"{field}.model")
    param = field or "scale"
    large = size.scaled(step.scale)
    if large.num_pixels > MAX_UPSCALED_PIXELS:
        raise InvalidParameter(
            f"{param}: {size} times {step.scale} is {large}; at most {MAX_UPSCALED_PIXELS} pixels are made.",
            param=param,
        )
    if large.num_pixels * num_images > MAX_TOGETHER_PIXELS:
        raise InvalidParameter(
            f"{param}: {num_images} images of {large}; at most {MAX_TOGETHER_PIXELS} pixels are made together.",
            param=param,
        )
    if entry is not None and _num_pixels_read(size) > MAX_READ_PIXELS:
        raise InvalidParameter(
            f"{param}: {entry.id} reads {MAX_READ_PIXELS} pixels at most; an image of {size} is larger.", param=param
        )
    return None if entry is None else entry.id


def resolve_hires(params: GenerateParams, hires: HiresStep, first: Pass, entry: ModelEntry) -> Pass:
    """Return the second pass of a request with `hires`: the first at a larger size, with its own steps and strength.

    Raises:
        NotSupported: the request has controls or a mask.
        InvalidParameter: the model does not support the larger size, or the number of steps is 0 or too high for the
            sampler.
    """
    if params.controls or params.mask_image is not None:
        refuse_hires()
    size = first.size.scaled(hires.scale).in_whole_latents()
    if not entry.sides_px.allow(size):
        raise InvalidParameter(
            f"hires: {first.size} times {hires.scale} is {size}; {entry.id} draws sides of {entry.sides_px.min} to "
            f"{entry.sides_px.max} pixels. Use upscale for more.",
            param="hires",
        )
    steps, max_steps = hires.steps or first.sampling.num_inference_steps, SAMPLERS[first.sampling.sampler].max_steps
    if int(steps * hires.strength) == 0 or steps > max_steps:
        raise InvalidParameter(
            f"hires: {hires.strength} of {steps} steps is none, or too many for {first.sampling.sampler}, which "
            f"takes {max_steps}.",
            param="hires",
        )
    sampling = replace(first.sampling, num_inference_steps=steps, strength=hires.strength)
    return replace(first, size=size, sampling=sampling)


def refuse_hires() -> None:
    """Raise NotSupported: the second pass of `hires` would ignore the request's controls or mask."""
    raise NotSupported("hires is not supported with controls or a mask; use upscale instead.", param="hires")


def resolve_enlargement(params: UpscaleParams, size: Size, catalogue: Catalogue) -> str | None:
    """Return the id of the upscaler for a client's image of this size; None is bicubic resampling.

    Raises:
        ModelNotFound: the upscaler is not served here.
        InvalidParameter: the image or its enlargement is too large, or the output format cannot hold the enlargement.
    """
    upscaler = resolve_upscale(params, size, catalogue, field=None)
    check_output(params.output_format, params.output_compression, size.scaled(params.scale))
    return upscaler


def _num_pixels_read(size: Size) -> int:
    """Return the number of pixels the network reads, with the padding to multiples of `FOLD_PX`."""
    return math.prod(math.ceil(side / FOLD_PX) * FOLD_PX for side in (size.width, size.height))
