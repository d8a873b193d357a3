"""Control maps that OpenCV draws: one function for each kind, registered by `@draws`."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from atelier.core.control import CANNY_THRESHOLDS, Annotation, ControlImage, ControlKind

Draw = Callable[[ControlImage, Annotation], ControlImage]

#: The drawing functions by kind: image [height, width, 3] and settings to a map of the same shape.
DRAWINGS: dict[ControlKind, Draw] = {}


def draws(kind: ControlKind) -> Callable[[Draw], Draw]:
    """Return a decorator that registers a function in `DRAWINGS` as the one that draws control maps of this kind."""

    def register(draw: Draw) -> Draw:
        DRAWINGS[kind] = draw
        return draw

    return register


@draws("canny")
def canny(pixels: ControlImage, annotation: Annotation) -> ControlImage:
    """Draw edges one pixel wide, white on black (Canny 1986)."""
    return grey_image(cv2.Canny(pixels, annotation.low_threshold, annotation.high_threshold))


@draws("softedge")
def softedge(pixels: ControlImage, _: Annotation) -> ControlImage:
    """Draw the strength of edges: Scharr's gradient of the smoothed image, divided by its largest value."""
    grey = cv2.GaussianBlur(_grey(pixels), (0, 0), 1.0).astype(np.float32)
    strength = np.hypot(cv2.Scharr(grey, cv2.CV_32F, 1, 0), cv2.Scharr(grey, cv2.CV_32F, 0, 1))
    return grey_image(255 * strength / max(float(strength.max()), 1e-6))


@draws("lineart")
def lineart(pixels: ControlImage, _: Annotation) -> ControlImage:
    """Draw dark lines, inverted to white on black: difference of two Gaussians (Winnemöller et al. 2012, eq. 1)."""
    grey = _grey(pixels).astype(np.float32)
    difference = cv2.GaussianBlur(grey, (0, 0), 2.0) - cv2.GaussianBlur(grey, (0, 0), 0.7)
    return grey_image(np.clip(6 * difference, 0, 255))


@draws("scribble")
def scribble(pixels: ControlImage, _: Annotation) -> ControlImage:
    """Draw Canny's edges at the default thresholds, thickened and smoothed."""
    thick = cv2.dilate(cv2.Canny(pixels, *CANNY_THRESHOLDS), np.ones((3, 3), dtype=np.uint8))
    return grey_image(np.where(cv2.GaussianBlur(thick, (0, 0), 1.5) > 96, 255, 0))


def grey_image(grey: npt.NDArray[np.generic]) -> ControlImage:
    """Return grey values [height, width], 0 … 255, as an image of three equal channels; fractions are cut off."""
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _grey(pixels: ControlImage) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
