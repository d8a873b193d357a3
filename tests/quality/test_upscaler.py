"""The zoo's upscaler on held-out scenes, compared with bicubic resampling."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.core.geometry import Size
from atelier.models.thread import result_of
from atelier.models.upscaler import Upscalers, UpscaleTask
from tests.small_models import CPU
from zoo.report import held_out_descriptions
from zoo.scenes import arrange, draw


def _psnr_db(image: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> float:
    return 10 * float(np.log10(255**2 / np.square(image.astype(float) - expected).mean()))


def test_upscaler_gains_three_decibels_over_bicubic(catalogue: Catalogue) -> None:
    upscalers, random = Upscalers(catalogue.upscalers, CPU), Random("upscaler test")
    gains = []
    for description in held_out_descriptions(16):
        large = draw(arrange(description, random, width=256, height=256))
        small = np.asarray(large.resize((64, 64), Image.Resampling.BICUBIC))
        tasks = [UpscaleTask(name, small, Size(width=256, height=256)) for name in ("tiny-x4", None)]
        (by_network, _), (bicubic, _) = result_of(upscalers.upscale(tasks))
        gains.append(_psnr_db(by_network, np.asarray(large)) - _psnr_db(bicubic, np.asarray(large)))
    assert np.mean(gains) >= 3
