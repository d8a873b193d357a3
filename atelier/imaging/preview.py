"""Previews at the size of their image: from pixels, or from latents by a linear projection of their channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from atelier.core.conditioning import Floats
from atelier.core.geometry import Size
from atelier.imaging.inputs import RgbPixels


def projected(latents: Floats, latent_rgb: Sequence[Sequence[float]], size: Size) -> RgbPixels:
    """Project latents [4, h, w] to an image of the given size; `latent_rgb` is [5, 3], as in the catalogue."""
    factors = np.asarray(latent_rgb, dtype=np.float32)
    rgb = np.moveaxis(latents, 0, -1) @ factors[:4] + factors[4]
    return resized(np.clip(127.5 * (rgb + 1), 0, 255).astype(np.uint8), size)


def resized(pixels: RgbPixels, size: Size) -> RgbPixels:
    """Resize an image bicubically; one that has the size already is returned as it is."""
    height, width, _ = pixels.shape
    if (width, height) == (size.width, size.height):
        return pixels
    image = Image.fromarray(pixels).resize((size.width, size.height), Image.Resampling.BICUBIC)
    return np.asarray(image)
