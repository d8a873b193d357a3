"""Depth from one picture, by any of transformers' depth estimators (DPT, Depth Anything, GLPN, …)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from atelier.catalogue.entries import AnnotatorEntry
from atelier.core.control import ControlImage
from atelier.models.hashes import weights_hash
from atelier.models.loading import Placement, load_depth_estimator


class DepthEstimator:
    """Not thread-safe: used from one thread."""

    def __init__(self, entry: AnnotatorEntry, placement: Placement) -> None:
        self._processor, self._model = load_depth_estimator(entry, placement)
        self._placement = placement
        self.weights_hash = weights_hash(self._model)

    @torch.inference_mode()
    def inverse_depth(self, pixels: ControlImage) -> npt.NDArray[np.float32]:
        """[height, width] of a picture [height, width, 3], in the model's own unit; large is near."""
        inputs = self._processor(pixels, return_tensors="pt").to(self._placement.device, self._placement.dtype)
        predicted = self._processor.post_process_depth_estimation(
            self._model(**inputs), target_sizes=[pixels.shape[:2]]
        )
        depth: npt.NDArray[np.float32] = predicted[0]["predicted_depth"].float().cpu().numpy()
        return depth
