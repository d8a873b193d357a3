"""Depth maps from one image, by any depth estimator of transformers (DPT, Depth Anything, GLPN, …)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from atelier.catalogue.entries import AnnotatorEntry
from atelier.control.drawing import grey_image
from atelier.core.control import ControlImage
from atelier.models.hashes import weights_hash
from atelier.models.loading import Placement, load_depth_estimator


class DepthEstimator:
    """A model that draws depth maps. Not thread-safe: used from one thread."""

    def __init__(self, entry: AnnotatorEntry, placement: Placement) -> None:
        """Load the model. Raises ModelUnavailable if files are missing."""
        self._processor, self._model = load_depth_estimator(entry, placement)
        self._placement = placement
        self.weights = {entry.id: weights_hash(self._model)}

    def draw(self, pixels: ControlImage) -> ControlImage:
        """Draw the depth map of an image [height, width, 3]."""
        return depth_map(self.inverse_depth(pixels))

    @torch.inference_mode()
    def inverse_depth(self, pixels: ControlImage) -> npt.NDArray[np.float32]:
        """Estimate an image's [height, width, 3] inverse depth [height, width] in the model's unit; large is near."""
        inputs = self._processor(pixels, return_tensors="pt").to(self._placement.device, self._placement.dtype)
        predicted = self._processor.post_process_depth_estimation(
            self._model(**inputs), target_sizes=[pixels.shape[:2]]
        )
        depth: npt.NDArray[np.float32] = predicted[0]["predicted_depth"].float().cpu().numpy()
        return depth


def depth_map(inverse_depth: npt.NDArray[np.generic]) -> ControlImage:
    """Draw inverse depth [height, width] as a control map: the nearest point white, the farthest black."""
    values = inverse_depth.astype(np.float32)
    span = max(float(values.max() - values.min()), 1e-6)
    return grey_image(np.round(255 * (values - values.min()) / span))
