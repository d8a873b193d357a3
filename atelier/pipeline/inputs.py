"""The pictures of a request: read once, then brought to the size that the plan decides on.

Blocking work, called in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from atelier.catalogue.entries import PIXELS_PER_LATENT, Sides, Size
from atelier.core.errors import InvalidParameter
from atelier.core.params import GenerateParams
from atelier.imaging.inputs import MaskPixels, RgbPixels, read_picture, to_mask, to_pixels


@dataclass(frozen=True, slots=True)
class Inputs:
    """As the client sent them, upright."""

    init_image: Image.Image
    mask_image: Image.Image | None

    def size_within(self, sides: Sides) -> Size:
        """The picture's own size, in whole latents and within what the model draws."""

        def side(pixels: int) -> int:
            return PIXELS_PER_LATENT * round(min(max(pixels, sides.min), sides.max) / PIXELS_PER_LATENT)

        return Size(width=side(self.init_image.width), height=side(self.init_image.height))

    def at(self, size: Size) -> FittedInputs:
        mask = self.mask_image
        return FittedInputs(
            pixels=to_pixels(self.init_image, width=size.width, height=size.height),
            mask=None if mask is None else to_mask(mask, width=size.width, height=size.height),
        )


@dataclass(frozen=True, slots=True)
class FittedInputs:
    """At the size that is drawn."""

    pixels: RgbPixels
    mask: MaskPixels | None


def read_inputs(params: GenerateParams) -> Inputs | None:
    """None if the request starts from nothing.

    Raises:
        InvalidParameter: a picture cannot be read, or what belongs to a picture comes without one.
    """
    if params.init_image is None:
        for name in ("mask_image", "strength"):
            if getattr(params, name) is not None:
                raise InvalidParameter(f"{name} needs init_image, the picture it is about.", param=name)
        return None
    picture = read_picture(params.init_image, param="init_image")
    if params.mask_image is None:
        return Inputs(picture, picture if picture.mode == "RGBA" else None)
    mask = read_picture(params.mask_image, param="mask_image")
    if mask.size != picture.size:
        raise InvalidParameter(
            f"mask_image: must be as large as init_image, {picture.width}x{picture.height}; "
            f"got {mask.width}x{mask.height}.",
            param="mask_image",
        )
    return Inputs(picture, mask)
