from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from atelier.core.params import OutputFormat
from atelier.imaging.formats import write_picture
from atelier.imaging.metadata import Metadata


def _gradient() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    return np.stack([np.tile(ramp, (48, 1)), np.tile(ramp[::-1], (48, 1)), np.full((48, 64), 90, np.uint8)], -1)


def test_png_keeps_every_pixel() -> None:
    decoded = Image.open(io.BytesIO(write_picture(_gradient(), "png")))
    assert np.array_equal(np.asarray(decoded), _gradient())


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_lossy_formats_stay_close(output_format: OutputFormat) -> None:
    decoded = np.asarray(Image.open(io.BytesIO(write_picture(_gradient(), output_format))))
    assert np.abs(decoded.astype(int) - _gradient()).mean() < 3


def test_a_text_longer_than_jpeg_has_room_for_is_left_out() -> None:
    for length, is_told in ((1000, True), (40_000, False)):
        data = write_picture(_gradient(), "jpeg", metadata=Metadata("x" * length, {"parameters": {}}))
        assert bool(Image.open(io.BytesIO(data)).getexif()) == is_told
