from __future__ import annotations

import numpy as np

from atelier.core.geometry import Size
from atelier.imaging.preview import projected

#: Channel 0 is red, 1 green, 2 blue, 3 darkens all; the bias lifts blue.
_LATENT_RGB = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (-0.5, -0.5, -0.5), (0.0, 0.0, 0.2))


def _constant(*channels: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.tile(np.array(channels, dtype=np.float32)[:, None, None], (1, 2, 3))


def _colour(*channels: float) -> tuple[int, ...]:
    pixels = projected(_constant(*channels), _LATENT_RGB, Size(width=24, height=16))
    assert (pixels.shape, str(pixels.dtype)) == ((16, 24, 3), "uint8")
    assert (pixels == pixels[0, 0]).all()
    return tuple(int(value) for value in pixels[0, 0])


def test_latents_are_projected_to_colours_between_minus_one_and_one() -> None:
    assert _colour(0, 0, 0, 0) == (127, 127, 153)
    assert _colour(1, 0, -1, 0) == (255, 127, 25)
    assert _colour(0, 0.5, 0, 1) == (63, 127, 89)


def test_colours_beyond_the_range_are_clipped() -> None:
    assert _colour(5, -5, 0, 0) == (255, 0, 153)


def test_a_preview_has_the_orientation_of_its_latents() -> None:
    latents = _constant(-1, -1, -1, 0)
    latents[0, 1, 2] = 1
    pixels = projected(latents, _LATENT_RGB, Size(width=24, height=16)).astype(int)
    assert pixels[14, 22, 0] > 200
    assert pixels[1, 1, 0] < 20
    assert pixels[14, 1, 0] < 20
