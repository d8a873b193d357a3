"""Previews of latents by a linear projection of their channels, without a VAE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from atelier.core.conditioning import Floats
from atelier.core.geometry import Size
from atelier.imaging.inputs import RgbPixels


def preview(latents: Floats, latent_rgb: Sequence[Sequence[float]], size: Size) -> RgbPixels:
    """Project latents [4, h, w] to an image of the given size; `latent_rgb` is [5, 3], as in the catalogue."""
    factors = np.asarray(latent_rgb, dtype=np.float32)
    rgb = np.moveaxis(latents, 0, -1) @ factors[:4] + factors[4]
    small = Image.fromarray(np.uint8(np.clip(127.5 * (rgb + 1), 0, 255)))
    return np.asarray(small.resize((size.width, size.height), Image.Resampling.BICUBIC))
