"""Pictures to files and back."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from atelier.core.params import OutputFormat
from atelier.imaging.metadata import Metadata, exif, png_chunks

MEDIA_TYPES: dict[OutputFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

_JPEG_QUALITY = 95
_WEBP_QUALITY = 90


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
