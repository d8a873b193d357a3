"""What latents look like, without a VAE: a linear map of their four channels, as small as they are, made larger."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from atelier.core.conditioning import Floats
from atelier.imaging.inputs import RgbPixels


def preview(latents: Floats, latent_rgb: Sequence[Sequence[float]], *, width: int, height: int) -> RgbPixels:
    """Latents [4, h, w] as a picture [height, width, 3]; `latent_rgb` [5, 3] as in the catalogue."""
    factors = np.asarray(latent_rgb, dtype=np.float32)
    rgb = np.moveaxis(latents, 0, -1) @ factors[:4] + factors[4]
    small = Image.fromarray(np.uint8(np.clip(127.5 * (rgb + 1), 0, 255)))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
