from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from atelier.core.geometry import Size
from atelier.imaging.inputs import read_image, to_pixels


def _read(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "PNG")
    with read_image(file.getvalue(), param="image") as read:
        return read.copy()


def test_sixteen_bits_are_brought_to_eight() -> None:
    """As depth maps come."""
    ramp = np.tile(np.linspace(0, 65_535, 64, dtype=np.uint16), (48, 1))
    pixels = to_pixels(_read(Image.fromarray(ramp)), Size(width=64, height=48))
    assert np.abs(pixels[..., 0].astype(int) - ramp // 256).max() == 0


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (9, 8, 7), "RGB"),
        ("RGBA", (9, 8, 7, 255), "RGB"),
        ("RGBA", (9, 8, 7, 254), "RGBA"),
        ("LA", (9, 255), "RGB"),
        ("LA", (9, 0), "RGBA"),
        ("L", 9, "RGB"),
        ("P", 0, "RGB"),
        ("1", 1, "RGB"),
    ],
)
def test_only_what_is_transparent_has_an_alpha_channel(
    mode: str, colour: tuple[int, ...] | int, expected: str
) -> None:
    assert _read(Image.new(mode, (8, 8), colour)).mode == expected
