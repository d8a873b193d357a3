"""How well a picture follows a control map, 0 … 1; deterministic, beside the depth estimator's own opinion."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from atelier.core.control import ControlImage

#: Inverse depth, 0 … 1, below which a pixel is background.
_BACKGROUND = 0.15
#: A depth is right within this ratio (δ₁ of Eigen et al. 2014, §4.1).
_RATIO = 1.25


def edge_f1(edges: ControlImage, expected: ControlImage) -> float:
    """F1 of edge pixels, each right if the other map has one within a pixel."""
    found, there = edges[..., 0] > 0, expected[..., 0] > 0
    precision = _share(_grown(there)[found])
    recall = _share(_grown(found)[there])
    return _f1(precision, recall)


def depth_f1(depth: ControlImage, expected: ControlImage) -> float:
    """F1 of the pixels that are not background, each right if the other map has nearly its depth."""
    ours, theirs = depth[..., 0].astype(np.float32) / 255, expected[..., 0].astype(np.float32) / 255
    is_right = np.maximum(ours, theirs) < _RATIO * np.minimum(ours, theirs)
    return _f1(_share(is_right[ours > _BACKGROUND]), _share(is_right[theirs > _BACKGROUND]))


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), dtype=np.uint8))) > 0


def _share(right: npt.NDArray[np.bool_]) -> float:
    return float(right.mean()) if right.size else 0.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / max(precision + recall, 1e-6)
