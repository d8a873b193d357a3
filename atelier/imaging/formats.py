"""Pictures to files and back."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from atelier.core.errors import InvalidParameter
from atelier.core.params import OutputFormat
from atelier.imaging.metadata import Metadata, exif, png_chunks

MEDIA_TYPES: dict[OutputFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

#: Where a format has no room for more.
_MAX_SIDE_PX: dict[OutputFormat, int] = {"jpeg": 65_500, "webp": 16_383}

_JPEG_QUALITY = 95
_WEBP_QUALITY = 90


def check_output(output_format: OutputFormat, quality: int | None, *, width: int, height: int) -> None:
    """Raises InvalidParameter if such a picture cannot be written so."""
    if output_format == "png" and quality not in (None, 100):
        raise InvalidParameter(
            f"output_compression: png is lossless; choose jpeg or webp for {quality}.", param="output_compression"
        )
    if max(width, height) > _MAX_SIDE_PX.get(output_format, max(width, height)):
        raise InvalidParameter(
            f"output_format: {output_format} has sides of up to {_MAX_SIDE_PX[output_format]} pixels; "
            f"this picture is {width}x{height}.",
            param="output_format",
        )


def encode_picture(
    pixels: npt.NDArray[np.uint8],
    output_format: OutputFormat,
    *,
    quality: int | None = None,
    metadata: Metadata | None = None,
) -> bytes:
    """A picture [height, width, 3 or 4] as a PNG (lossless), JPEG or WebP file; `quality` in 0 … 100.

    JPEG has no alpha: what is transparent becomes white.
    """
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    if output_format == "jpeg" and picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if output_format == "png":
        picture.save(buffer, "PNG", compress_level=3, pnginfo=None if metadata is None else png_chunks(metadata))
        return buffer.getvalue()
    options = {} if metadata is None else {"exif": exif(metadata)}
    if output_format == "jpeg":
        quality = _JPEG_QUALITY if quality is None else quality
        picture.save(buffer, "JPEG", quality=quality, subsampling=0, **options)
    else:
        picture.save(buffer, "WEBP", quality=_WEBP_QUALITY if quality is None else quality, **options)
    return buffer.getvalue()
