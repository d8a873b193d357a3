"""Image files that tests send, and images of files that they receive."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def encoded(picture: Image.Image, output_format: str = "PNG", **options: object) -> bytes:
    """Encode an image as a file and return its bytes."""
    file = io.BytesIO()
    picture.save(file, output_format, **options)
    return file.getvalue()


def as_base64(picture: Image.Image, output_format: str = "PNG", **options: object) -> str:
    """Encode an image as a file and return it as base64 text."""
    return base64.b64encode(encoded(picture, output_format, **options)).decode("ascii")


def decoded(data: bytes | str) -> Image.Image:
    """Open the image of a file given as bytes or in base64."""
    return Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data))


def pixels_of(data: bytes | str) -> npt.NDArray[np.uint8]:
    """Return the pixels, [height, width, channels], of a file given as bytes or in base64."""
    return np.asarray(decoded(data))


def noise(width: int, height: int, *, channels: int = 3, seed: int = 0) -> Image.Image:
    """An image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8))
