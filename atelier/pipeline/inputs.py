"""The images of a request: sizes from the files' headers, then pixels resized to the output size.

The pipeline calls these functions in a process of their own if a request has images.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass

from PIL import Image

from atelier.core.errors import InvalidParameter, TooMuchWork
from atelier.core.geometry import Size
from atelier.core.params.generate import GenerateParams
from atelier.imaging.inputs import MAX_PIXELS, MaskPixels, RgbPixels, image_size, read_image, to_mask, to_pixels

#: Maximum number of pixels of all images of a request: an init image and its mask may be as large as a file may be.
MAX_PIXELS_TOGETHER = 2 * MAX_PIXELS


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSizes:
    """Sizes of a request's images once they are upright."""

    init_image: Size | None = None
    #: Whether a mask or mark-up was sent, which are as large as the init image.
    has_overlay: bool = False
    #: Sizes of the control images, in the order of the controls.
    control_images: tuple[Size, ...] = ()

    @property
    def all(self) -> tuple[Size, ...]:
        """Sizes of all images that will be decoded."""
        init_image = () if self.init_image is None else (self.init_image,) * (1 + self.has_overlay)
        return (*init_image, *self.control_images)

    @property
    def first(self) -> Size | None:
        """Size of the first input image, which determines the output size if the request's `size` is auto."""
        return next((size for size in (self.init_image, *self.control_images) if size is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A request's images at the size that is generated."""

    init_image: RgbPixels | None = None
    mask: MaskPixels | None = None
    #: Control maps, or the images to draw them from, in the order of the controls.
    control_images: tuple[RgbPixels, ...] = ()


def read_sizes(params: GenerateParams) -> InputSizes:
    """Check the headers of all input images and return the images' sizes.

    Raises:
        InvalidParameter: a file is not an image; a mask, mark-up or strength is sent without an init_image; a mask or
            mark-up differs from it in size; or both a mask and a mark-up are sent.
        TooMuchWork: the images have more than `MAX_PIXELS_TOGETHER`.
    """
    init_image = None
    if params.init_image is None:
        for name in ("mask_image", "markup_image", "strength"):
            if getattr(params, name) is not None:
                raise InvalidParameter(f"{name} needs an init_image.", param=name)
    else:
        init_image = image_size(params.init_image, param="init_image")
        if params.mask_image is not None and params.markup_image is not None:
            raise InvalidParameter("markup_image goes without mask_image; send one of them.", param="markup_image")
        _check_size(params.mask_image, init_image, param="mask_image")
        _check_size(params.markup_image, init_image, param="markup_image")
    sizes = InputSizes(
        init_image=init_image,
        has_overlay=params.mask_image is not None or params.markup_image is not None,
        control_images=tuple(
            image_size(control.image, param=f"controls[{index}].image")
            for index, control in enumerate(params.controls)
        ),
    )
    if (num_pixels := sum(size.num_pixels for size in sizes.all)) > MAX_PIXELS_TOGETHER:
        raise TooMuchWork(
            f"The images of the request have {num_pixels} pixels together; at most {MAX_PIXELS_TOGETHER} are read."
        )
    return sizes


def read_inputs(params: GenerateParams, size: Size) -> Inputs:
    """Decode the request's images one after another and resize them to `size`.

    Raises InvalidParameter if an image is broken, or if a mark-up is opaque.
    """
    init_image = mask = None
    if params.init_image is not None:
        init_image, mask = _init_image(params, params.init_image, size)
    control_images = []
    for index, control in enumerate(params.controls):
        with read_image(control.image, param=f"controls[{index}].image") as image:
            control_images.append(to_pixels(image, size))
    return Inputs(init_image=init_image, mask=mask, control_images=tuple(control_images))


def _init_image(params: GenerateParams, data: bytes, size: Size) -> tuple[RgbPixels, MaskPixels | None]:
    """Return the init image with its mark-up on top, and the mask.

    The mask is the one that was sent, else the transparent parts of the init image; None if there is neither.
    """
    with ExitStack() as images:
        image = images.enter_context(read_image(data, param="init_image"))
        if params.markup_image is not None:
            image = images.enter_context(closing(_marked_up(image, params.markup_image)))
        pixels = to_pixels(image, size)
        if params.mask_image is None:
            return pixels, to_mask(image, size) if image.mode == "RGBA" else None
        with read_image(params.mask_image, param="mask_image") as mask:
            return pixels, to_mask(mask, size)


def _marked_up(image: Image.Image, markup_image: bytes) -> Image.Image:
    """Lay the mark-up over the image; the result is transparent where both are."""
    with read_image(markup_image, param="markup_image") as markup:
        if markup.mode != "RGBA":
            raise InvalidParameter(
                "markup_image: must be transparent where nothing is drawn; this image is opaque.",
                param="markup_image",
            )
        over = markup if markup.size == image.size else markup.resize(image.size)
        return Image.alpha_composite(image.convert("RGBA"), over).convert(image.mode)


def _check_size(data: bytes | None, init_image: Size, *, param: str) -> None:
    size = init_image if data is None else image_size(data, param=param)
    if size != init_image:
        raise InvalidParameter(f"{param}: must be as large as init_image, {init_image}; got {size}.", param=param)
