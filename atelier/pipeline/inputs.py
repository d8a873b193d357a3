"""The pictures of a request: read once, then brought to the size that the plan decides on.

Blocking work where there are any, called in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from PIL import Image

from atelier.catalogue.entries import PIXELS_PER_LATENT, Sides, Size
from atelier.core.errors import InvalidParameter
from atelier.core.params import GenerateParams
from atelier.imaging.inputs import MaskPixels, RgbPixels, read_picture, to_mask, to_pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """As the client sent them, upright."""

    init_image: Image.Image | None = None
    mask_image: Image.Image | None = None
    #: Maps, or the pictures to draw them from, in the order of the controls.
    control_images: tuple[Image.Image, ...] = ()

    @property
    def first(self) -> Image.Image | None:
        """The picture that a picture made from them is as large as."""
        return next((picture for picture in (self.init_image, *self.control_images) if picture is not None), None)

    def size_within(self, sides: Sides) -> Size | None:
        """The first picture's own size, in whole latents and within what the model draws."""
        first = self.first

        def side(pixels: int) -> int:
            return PIXELS_PER_LATENT * round(min(max(pixels, sides.min), sides.max) / PIXELS_PER_LATENT)

        return None if first is None else Size(width=side(first.width), height=side(first.height))

    def at(self, size: Size) -> FittedInputs:
        width, height = size.width, size.height
        return FittedInputs(
            pixels=None if self.init_image is None else to_pixels(self.init_image, width=width, height=height),
            mask=None if self.mask_image is None else to_mask(self.mask_image, width=width, height=height),
            control_images=tuple(to_pixels(picture, width=width, height=height) for picture in self.control_images),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedInputs:
    """At the size that is drawn."""

    pixels: RgbPixels | None
    mask: MaskPixels | None
    control_images: tuple[RgbPixels, ...]


@contextmanager
def read_inputs(params: GenerateParams) -> Iterator[Inputs]:
    """Closed at the end. Raises InvalidParameter if a picture cannot be read, or what belongs to one comes alone."""
    with ExitStack() as pictures:
        init_image, mask_image = _start(params, pictures)
        yield Inputs(
            init_image=init_image,
            mask_image=mask_image,
            control_images=tuple(
                pictures.enter_context(read_picture(control.image, param=f"controls[{index}].image"))
                for index, control in enumerate(params.controls)
            ),
        )


def _start(params: GenerateParams, pictures: ExitStack) -> tuple[Image.Image | None, Image.Image | None]:
    """The picture to start from and its mask."""
    if params.init_image is None:
        for name in ("mask_image", "markup_image", "strength"):
            if getattr(params, name) is not None:
                raise InvalidParameter(f"{name} needs init_image, the picture it is about.", param=name)
        return None, None
    picture = pictures.enter_context(read_picture(params.init_image, param="init_image"))
    if params.markup_image is not None:
        picture = pictures.enter_context(closing(_marked_up(params, params.markup_image, picture)))
    if params.mask_image is None:
        return picture, picture if picture.mode == "RGBA" else None
    mask = pictures.enter_context(read_picture(params.mask_image, param="mask_image"))
    _check_size(mask, picture, param="mask_image")
    return picture, mask


def _marked_up(params: GenerateParams, markup_image: bytes, picture: Image.Image) -> Image.Image:
    """The picture under its mark-up; it stays transparent where both are."""
    if params.mask_image is not None:
        raise InvalidParameter("markup_image goes without mask_image; send one of them.", param="markup_image")
    with read_picture(markup_image, param="markup_image") as markup:
        if markup.mode != "RGBA":
            raise InvalidParameter(
                "markup_image: must be transparent where nothing is drawn; this picture is opaque.",
                param="markup_image",
            )
        _check_size(markup, picture, param="markup_image")
        return Image.alpha_composite(picture.convert("RGBA"), markup).convert(picture.mode)


def _check_size(other: Image.Image, picture: Image.Image, *, param: str) -> None:
    if other.size != picture.size:
        raise InvalidParameter(
            f"{param}: must be as large as init_image, {picture.width}x{picture.height}; "
            f"got {other.width}x{other.height}.",
            param=param,
        )
