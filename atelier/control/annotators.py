"""Control maps from pictures: edges by OpenCV, depth by a model. A map is bright where something is, or is near."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from atelier.catalogue.entries import AnnotatorEntry
from atelier.control.depth import DepthEstimator
from atelier.core.control import CANNY_THRESHOLDS, Annotation, ControlImage, ControlKind
from atelier.core.errors import NotSupported
from atelier.models.loading import Placement


class Annotators:
    """All that draws control maps here. Not thread-safe: used from one thread."""

    def __init__(self, entries: Sequence[AnnotatorEntry], placement: Placement) -> None:
        """Raises ModelUnavailable if files are missing. Of several models of a kind the first is taken."""
        self._depth = DepthEstimator(entries[0], placement) if entries else None
        self._weights = {} if self._depth is None else {entries[0].id: self._depth.weights_hash}

    def weights(self, kind: ControlKind) -> dict[str, str]:
        """Hashes of the models that draw such maps."""
        return self._weights if kind == "depth" else {}

    def annotate(self, annotation: Annotation, pixels: ControlImage) -> ControlImage:
        """A map as large as the picture [height, width, 3]. Raises NotSupported if there is no model for the kind."""
        if annotation.kind == "canny":
            return canny(pixels, annotation.low_threshold, annotation.high_threshold)
        if annotation.kind != "depth":
            return _BY_OPENCV[annotation.kind](pixels)
        if self._depth is None:
            raise NotSupported(
                "This server has no depth estimator; add one of the catalogue's annotators.", param="kind"
            )
        return depth_map(self._depth.inverse_depth(pixels))


def canny(pixels: ControlImage, low: int, high: int) -> ControlImage:
    """Lines of one pixel (Canny 1986); edges above `high`, and above `low` where they continue such a one."""
    return _three_channels(cv2.Canny(pixels, low, high))


def softedge(pixels: ControlImage) -> ControlImage:
    """Strength of the edges: Scharr's gradient of the smoothed picture over its largest value."""
    grey = cv2.GaussianBlur(_grey(pixels), (0, 0), 1.0).astype(np.float32)
    strength = np.hypot(cv2.Scharr(grey, cv2.CV_32F, 1, 0), cv2.Scharr(grey, cv2.CV_32F, 0, 1))
    return _three_channels((255 * strength / max(float(strength.max()), 1e-6)).astype(np.uint8))


def lineart(pixels: ControlImage) -> ControlImage:
    """Dark lines as a pen draws them: difference of two Gaussians (Winnemöller et al. 2012, eq. 1), inverted."""
    grey = _grey(pixels).astype(np.float32)
    difference = cv2.GaussianBlur(grey, (0, 0), 2.0) - cv2.GaussianBlur(grey, (0, 0), 0.7)
    return _three_channels(np.clip(6 * difference, 0, 255).astype(np.uint8))


def scribble(pixels: ControlImage) -> ControlImage:
    """Canny's lines, thick and smooth."""
    thick = cv2.dilate(cv2.Canny(pixels, *CANNY_THRESHOLDS), np.ones((3, 3), dtype=np.uint8))
    return _three_channels(np.where(cv2.GaussianBlur(thick, (0, 0), 1.5) > 96, 255, 0).astype(np.uint8))


def depth_map(inverse_depth: npt.NDArray[np.generic]) -> ControlImage:
    """Inverse depth [height, width] of any unit as a map: the nearest point white, the farthest black."""
    values = inverse_depth.astype(np.float32)
    span = max(float(values.max() - values.min()), 1e-6)
    return _three_channels(np.round(255 * (values - values.min()) / span).astype(np.uint8))


_BY_OPENCV: dict[ControlKind, Callable[[ControlImage], ControlImage]] = {
    "softedge": softedge,
    "lineart": lineart,
    "scribble": scribble,
}


def _grey(pixels: ControlImage) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _three_channels(grey: npt.NDArray[np.generic]) -> ControlImage:
    return np.repeat(np.asarray(grey, dtype=np.uint8)[..., None], 3, axis=2)
