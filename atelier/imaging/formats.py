"""Image files: PNG, JPEG and WebP."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from atelier.core.errors import InvalidParameter
from atelier.core.geometry import Size
from atelier.core.params.delivery import OutputFormat
from atelier.imaging.metadata import Metadata, exif, png_chunks

MEDIA_TYPES: dict[OutputFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

#: Maximum side of an image, in pixels, in formats that have a limit.
_MAX_SIDE_PX: dict[OutputFormat, int] = {"jpeg": 65_500, "webp": 16_383}

_JPEG_QUALITY = 95
_WEBP_QUALITY = 90


def format_of(data: bytes) -> OutputFormat | None:
    """Return the format of an image file by its first bytes (PNG 1.2, JFIF 1.02, RFC 9649); None for any other."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else None


def read_own_picture(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode an image file that this server has written to RGB, [height, width, 3].

    Files of clients are read in a process of their own, by `atelier.imaging.inputs`.
    """
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def check_output(output_format: OutputFormat, quality: int | None, size: Size) -> None:
    """Raise InvalidParameter if the format cannot hold an image of this size, or if a PNG has a quality below 100."""
    if output_format == "png" and quality not in (None, 100):
        raise InvalidParameter(
            f"output_compression: PNG is lossless; use jpeg or webp for {quality}.", param="output_compression"
        )
    longest = max(size.width, size.height)
    if longest > _MAX_SIDE_PX.get(output_format, longest):
        raise InvalidParameter(
            f"output_format: {output_format} has sides of up to {_MAX_SIDE_PX[output_format]} pixels; "
            f"this image is {size}.",
            param="output_format",
        )


def write_picture(
    pixels: npt.NDArray[np.uint8],
    output_format: OutputFormat,
    *,
    quality: int | None = None,
    metadata: Metadata | None = None,
) -> bytes:
    """Encode an image [height, width, 3 or 4] as a file; `quality` of JPEG and WebP is 0 … 100.

    JPEG has no alpha: transparent parts become white.
    """
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if output_format == "jpeg" and image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if output_format == "png":
        image.save(buffer, "PNG", compress_level=3, pnginfo=None if metadata is None else png_chunks(metadata))
        return buffer.getvalue()
    options = {} if metadata is None else {"exif": exif(metadata)}
    if output_format == "jpeg":
        quality = _JPEG_QUALITY if quality is None else quality
        image.save(buffer, "JPEG", quality=quality, subsampling=0, **options)
    else:
        image.save(buffer, "WEBP", quality=_WEBP_QUALITY if quality is None else quality, **options)
    return buffer.getvalue()
