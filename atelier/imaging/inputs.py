"""Images that clients send: read safely, turned upright, resized to the size that is generated.

An image is rejected before its pixels are decoded if its format is not in `FORMATS` or if it has more than
`MAX_PIXELS`. Resizing scales an image to cover the target size and crops the rest evenly on both sides.
"""

from __future__ import annotations

import io
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import numpy as np
import numpy.typing as npt

# Pillow imports the plugins of all formats for an image in a format whose plugin is not imported yet.
from PIL import ExifTags, Image, ImageFilter, ImageOps, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from atelier.core.errors import InvalidParameter
from atelier.core.geometry import PIXELS_PER_LATENT, Size
from atelier.imaging.formats import format_of

RgbPixels = npt.NDArray[np.uint8]  # [height, width, 3]
MaskPixels = npt.NDArray[np.uint8]  # [height, width]; 255 is painted anew, 0 is kept

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 4096 * 4096
#: Maximum number of scans in a JPEG. Encoders write about ten; each is a pass over all pixels.
_MAX_SCANS = 64
_START_OF_SCAN = b"\xff\xda"
_HALF = 128
_ROWS_AT_ONCE = 256
#: EXIF orientations that swap width and height.
_SIDEWAYS = range(5, 9)


@contextmanager
def read_image(data: bytes, *, param: str) -> Iterator[Image.Image]:
    """Open the image of a file, upright, as RGB, or as RGBA if any of it is transparent.

    The image is closed when the context exits, so that an error's traceback does not keep its pixels in memory.

    Raises:
        InvalidParameter: the file is not an image in one of `FORMATS`, is too large, or is broken.
    """
    with closing(_upright(data, param)) as image:
        yield image


def image_size(data: bytes, *, param: str) -> Size:
    """Return the size of a file's image once it is upright, from the file's header.

    Raises:
        InvalidParameter: the header is not that of an image in one of `FORMATS`, or the image is too large.
    """
    with opened_image(data, param=param) as image:
        # The base class's `getexif`: that of PNG decodes all pixels, because an eXIf chunk may follow them.
        is_sideways = Image.Image.getexif(image).get(ExifTags.Base.Orientation) in _SIDEWAYS
        width, height = reversed(image.size) if is_sideways else image.size
        return Size(width=width, height=height)


def check_format(data: bytes, *, param: str) -> None:
    """Raise InvalidParameter if a file does not begin like an image in one of `FORMATS`."""
    if format_of(data) is None:
        raise _unreadable(param)


@contextmanager
def opened_image(data: bytes, *, param: str) -> Iterator[Image.Image]:
    """Open the image of a file without decoding its pixels.

    Raises:
        InvalidParameter: the file is not an image in one of `FORMATS`, has too many pixels or scans, or any error
            occurs while the image is open, such as in decoding it.
    """
    with ExitStack() as rejected:
        try:
            image = rejected.enter_context(closing(Image.open(io.BytesIO(data), formats=FORMATS)))
            _check_work(image, data, param)
            yield image
        except InvalidParameter:
            raise
        except Exception as error:
            # Catch everything: Pillow's decoders raise OSError, SyntaxError, struct.error and others.
            _forget_frames(error)
            # Pillow says of an unknown format only where the file lies in memory.
            raise _unreadable(param, "" if isinstance(error, UnidentifiedImageError) else f" ({error})") from error
        rejected.pop_all()


def _unreadable(param: str, reason: str = "") -> InvalidParameter:
    return InvalidParameter(f"{param}: not a readable image{reason}; send {', '.join(FORMATS)}.", param=param)


def _check_work(image: Image.Image, data: bytes, param: str) -> None:
    """Raise InvalidParameter if decoding the image would take too much time or memory."""
    if image.width * image.height > MAX_PIXELS:
        raise InvalidParameter(
            f"{param}: an image of {image.width}x{image.height} is too large; at most {MAX_PIXELS} pixels are read.",
            param=param,
        )
    if image.format == "JPEG" and (scans := data.count(_START_OF_SCAN)) > _MAX_SCANS:
        raise InvalidParameter(
            f"{param}: a JPEG of {scans} scans takes too long to decode; at most {_MAX_SCANS} are read.", param=param
        )


def _forget_frames(error: BaseException | None) -> None:
    """Clear the traceback's local variables, in which decoders keep the pixels read so far."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _upright(data: bytes, param: str) -> Image.Image:
    with opened_image(data, param=param) as image:
        ImageOps.exif_transpose(image, in_place=True)
        image.load()
        if image.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if image.has_transparency_data:
            image = _in_mode(image, "RGBA")
        return image if _is_transparent(image) else _in_mode(image, "RGB")


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert the image to a mode; copies only if necessary, because Pillow holds 4096 × 4096 pixels in 67 MB."""
    return image if image.mode == mode else image.convert(mode)


def _is_transparent(image: Image.Image) -> bool:
    """Return whether any pixel is transparent; an alpha channel alone does not make an image so."""
    return image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)


def to_pixels(image: Image.Image, size: Size) -> RgbPixels:
    """Resize the image to RGB [height, width, 3]; transparent parts become white."""
    return np.asarray(_fitted(_opaque(image), size))


def read_pixels(data: bytes, *, param: str, keep_alpha: bool) -> npt.NDArray[np.uint8]:
    """Return the pixels of a file [height, width, 3], or 4 with `keep_alpha` if any of them is transparent.

    Without `keep_alpha`, transparent parts become white. Raises InvalidParameter if the image is broken.
    """
    with read_image(data, param=param) as image:
        return np.asarray(image if keep_alpha else _opaque(image))


def _opaque(image: Image.Image) -> Image.Image:
    return _over_white(image) if image.mode == "RGBA" else _in_mode(image, "RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Lay an RGBA image over white, some rows at a time, because each copy of a large image takes 67 MB."""
    opaque = Image.new("RGB", image.size)
    for top in range(0, image.height, _ROWS_AT_ONCE):
        part = image.crop((0, top, image.width, min(top + _ROWS_AT_ONCE, image.height)))
        opaque.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part), (0, top))
    return opaque


def to_mask(image: Image.Image, size: Size) -> MaskPixels:
    """Resize an image to a mask [height, width]: 255 where it is transparent or, if opaque, light; 0 elsewhere."""
    is_transparent = image.mode == "RGBA"
    coverage = ImageOps.invert(image.getchannel("A")) if is_transparent else image.convert("L")
    fitted = np.asarray(_fitted(coverage, size))
    return np.where(fitted >= _HALF, 255, 0).astype(np.uint8)


def to_latent_mask(mask: MaskPixels) -> npt.NDArray[np.float32]:
    """Reduce a mask to [height / 8, width / 8], 1 where painted anew; takes the nearest pixel, as diffusers does."""
    return (mask[::PIXELS_PER_LATENT, ::PIXELS_PER_LATENT] > 0).astype(np.float32)


def blend(painted: RgbPixels, original: RgbPixels, mask: MaskPixels) -> RgbPixels:
    """Lay the painted image over the original: the original's exact pixels outside the mask, a soft edge inside."""
    radius = min(mask.shape) / 64
    blurred = np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255
    weight = np.clip(2 * blurred - 1, 0, 1)[..., None] * (mask > 0)[..., None]
    mixed = weight * painted + (1 - weight) * original
    return np.round(mixed).astype(np.uint8)


def _fitted(image: Image.Image, size: Size) -> Image.Image:
    if image.size == (size.width, size.height):
        return image
    return ImageOps.fit(image, (size.width, size.height), Image.Resampling.LANCZOS)
