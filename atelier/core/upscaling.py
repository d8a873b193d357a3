"""A picture made larger, as plain numpy: it travels between deployments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: What made a picture larger where there is no network for it.
BICUBIC = "bicubic"
MAX_SCALE = 4
#: Of the larger picture.
MAX_UPSCALED_PIXELS = 4096 * 4096


@dataclass(frozen=True, slots=True)
class Upscaled:
    #: [height, width, 3 or 4]
    pixels: npt.NDArray[np.uint8]
    #: The upscaler's id, or `BICUBIC`.
    made_by: str
