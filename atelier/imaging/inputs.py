"""Pictures that clients send: read safely, turned upright, brought to the size that the model draws.

A picture is refused by name before its pixels are decoded if it is not one of the formats read here or is larger
than `MAX_PIXELS`; nothing else of it is trusted. The rule for sizes: scaled to cover the size that is drawn, the
overhang cut off evenly on both sides.
"""

from __future__ import annotations

import io
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from atelier.core.errors import InvalidParameter

RgbPixels = npt.NDArray[np.uint8]  # [height, width, 3]
MaskPixels = npt.NDArray[np.uint8]  # [height, width]; 255 is painted anew, 0 kept

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 4096 * 4096
_HALF = 128


@contextmanager
def read_picture(data: bytes, *, param: str) -> Iterator[Image.Image]:
    """The picture of a file, upright, as RGB, or as RGBA if it is transparent anywhere.

    Closed at the end, lest an error's traceback keep its pixels.

    Raises:
        InvalidParameter: it is no picture of a known format, too large, or broken.
    """
    with closing(_upright(data, param)) as picture:
        yield picture


@contextmanager
def opened_picture(data: bytes, *, param: str) -> Iterator[Image.Image]:
    """The picture of a file before its pixels are read; raises what `read_picture` raises, also for what goes wrong
    while it is open."""
    with ExitStack() as refused:
        try:
            picture = refused.enter_context(closing(Image.open(io.BytesIO(data), formats=FORMATS)))
            if picture.width * picture.height > MAX_PIXELS:
                raise InvalidParameter(
                    f"{param}: a picture of {picture.width}x{picture.height} is too large; "
                    f"at most {MAX_PIXELS} pixels are read.",
                    param=param,
                )
            yield picture
        except InvalidParameter:
            raise
        except Exception as error:
            # Pillow's decoders raise what their format makes them raise: OSError, SyntaxError, struct.error, …
            _forget_frames(error)
            raise InvalidParameter(
                f"{param}: not a readable picture; send {', '.join(FORMATS)} ({type(error).__name__}: {error}).",
                param=param,
            ) from error
        refused.pop_all()


def _forget_frames(error: BaseException | None) -> None:
    """Decoders keep the pixels read so far in theirs."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _upright(data: bytes, param: str) -> Image.Image:
    with opened_picture(data, param=param) as picture:
        ImageOps.exif_transpose(picture, in_place=True)
        picture.load()
        if picture.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
        if picture.has_transparency_data:
            picture = _in_mode(picture, "RGBA")
        return picture if _is_transparent(picture) else _in_mode(picture, "RGB")


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """A picture of 4096² is 67 MB: it is not copied where it need not be."""
    return picture if picture.mode == mode else picture.convert(mode)


def _is_transparent(picture: Image.Image) -> bool:
    """Somewhere; an alpha channel alone says nothing."""
    return picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255)


def to_pixels(picture: Image.Image, *, width: int, height: int) -> RgbPixels:
    """The picture at the size that is drawn; what is transparent shows white."""
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(_fitted(picture.convert("RGB"), width, height))


def to_mask(picture: Image.Image, *, width: int, height: int) -> MaskPixels:
    """Where to paint: where the picture is transparent, or, if it is opaque throughout, where it is light."""
    is_transparent = picture.mode == "RGBA"
    coverage = ImageOps.invert(picture.getchannel("A")) if is_transparent else picture.convert("L")
    fitted = np.asarray(_fitted(coverage, width, height))
    return np.where(fitted >= _HALF, 255, 0).astype(np.uint8)


def mask_of_latents(mask: MaskPixels, *, pixels_per_latent: int) -> npt.NDArray[np.float32]:
    """The mask [height / 8, width / 8] of the latents, 1 where it is painted, nearest pixel as in diffusers."""
    return (mask[::pixels_per_latent, ::pixels_per_latent] > 0).astype(np.float32)


def blend(painted: RgbPixels, original: RgbPixels, mask: MaskPixels) -> RgbPixels:
    """What was painted over the original: outside the mask the original's very pixels, inside a soft edge."""
    radius = min(mask.shape) / 64
    blurred = np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255
    weight = np.clip(2 * blurred - 1, 0, 1)[..., None] * (mask > 0)[..., None]
    mixed = weight * painted + (1 - weight) * original
    return np.round(mixed).astype(np.uint8)


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
