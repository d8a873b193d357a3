"""Control maps from pictures, by what OpenCV does well. A map is [height, width, 3], bright where something is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # [height, width, 3]
EdgeKind = Literal["canny", "softedge", "lineart", "scribble"]

_CANNY_THRESHOLDS = 100, 200


def canny(pixels: Pixels, *, low: int = _CANNY_THRESHOLDS[0], high: int = _CANNY_THRESHOLDS[1]) -> Pixels:
    """Lines of one pixel (Canny 1986); edges above `high`, and above `low` where they continue such a one."""
    return _three_channels(cv2.Canny(pixels, low, high))


def softedge(pixels: Pixels) -> Pixels:
    """Strength of the edges: Scharr's gradient of the smoothed picture over its largest value."""
    grey = cv2.GaussianBlur(_grey(pixels), (0, 0), 1.0).astype(np.float32)
    strength = np.hypot(cv2.Scharr(grey, cv2.CV_32F, 1, 0), cv2.Scharr(grey, cv2.CV_32F, 0, 1))
    return _three_channels((255 * strength / max(float(strength.max()), 1e-6)).astype(np.uint8))


def lineart(pixels: Pixels) -> Pixels:
    """Dark lines as a pen draws them: difference of two Gaussians (Winnemöller et al. 2012, eq. 1), inverted."""
    grey = _grey(pixels).astype(np.float32)
    difference = cv2.GaussianBlur(grey, (0, 0), 2.0) - cv2.GaussianBlur(grey, (0, 0), 0.7)
    return _three_channels(np.clip(6 * difference, 0, 255).astype(np.uint8))


def scribble(pixels: Pixels) -> Pixels:
    """Canny's lines, thick and smooth."""
    thick = cv2.dilate(cv2.Canny(pixels, *_CANNY_THRESHOLDS), np.ones((3, 3), dtype=np.uint8))
    return _three_channels(np.where(cv2.GaussianBlur(thick, (0, 0), 1.5) > 96, 255, 0).astype(np.uint8))


def depth_map(inverse_depth: npt.NDArray[np.generic]) -> Pixels:
    """Inverse depth [height, width] of any unit as a map: the nearest point white, the farthest black."""
    values = inverse_depth.astype(np.float32)
    span = max(float(values.max() - values.min()), 1e-6)
    return _three_channels(np.round(255 * (values - values.min()) / span).astype(np.uint8))


ANNOTATORS: dict[EdgeKind, Callable[[Pixels], Pixels]] = {
    "canny": canny,
    "softedge": softedge,
    "lineart": lineart,
    "scribble": scribble,
}


def _grey(pixels: Pixels) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _three_channels(grey: npt.NDArray[np.generic]) -> Pixels:
    return np.repeat(np.asarray(grey, dtype=np.uint8)[..., None], 3, axis=2)
