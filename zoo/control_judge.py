"""F1 scores, 0 … 1, of an image's control map against the map that the image should follow."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from atelier.core.control import ControlImage

#: Inverse depth, 0 … 1, below which a pixel counts as background.
_BACKGROUND = 0.15
#: Largest ratio between two depths that count as equal (δ₁ of Eigen et al. 2014, §4.1).
_RATIO = 1.25


def edge_f1(edges: ControlImage, expected: ControlImage) -> float:
    """Compute the F1 of edge pixels; one counts as correct if the other map has an edge within one pixel."""
    found, there = edges[..., 0] > 0, expected[..., 0] > 0
    precision = _share(_grown(there)[found])
    recall = _share(_grown(found)[there])
    return _f1(precision, recall)


def depth_f1(depth: ControlImage, expected: ControlImage) -> float:
    """Compute the F1 of foreground pixels; one is correct if the maps' depths differ there by a factor below 1.25."""
    ours, theirs = depth[..., 0].astype(np.float32) / 255, expected[..., 0].astype(np.float32) / 255
    is_right = np.maximum(ours, theirs) < _RATIO * np.minimum(ours, theirs)
    return _f1(_share(is_right[ours > _BACKGROUND]), _share(is_right[theirs > _BACKGROUND]))


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), dtype=np.uint8))) > 0


def _share(right: npt.NDArray[np.bool_]) -> float:
    return float(right.mean()) if right.size else 0.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / max(precision + recall, 1e-6)
