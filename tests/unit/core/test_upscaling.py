from __future__ import annotations

from atelier.core import upscaling


def test_bounds_of_enlargements() -> None:
    assert upscaling.BICUBIC == "bicubic"
    assert upscaling.MAX_SCALE == 4
    assert upscaling.MAX_UPSCALED_PIXELS == 16_777_216
    assert upscaling.MAX_TOGETHER_PIXELS == 67_108_864
    assert upscaling.MAX_READ_PIXELS == 4_194_304
    assert upscaling.FOLD_PX == 4
