"""The annotators of a replica, which draw control maps with OpenCV or a model.

`atelier.core.control.CONTROL_KINDS` lists every kind of control map. A kind that OpenCV draws has a function in
`atelier.control.drawing`; a kind that a model draws has an entry in `_MODELS`. All control maps are bright at edges,
lines and near surfaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atelier.catalogue.entries import AnnotatorEntry
from atelier.control.depth import DepthEstimator
from atelier.control.drawing import DRAWINGS
from atelier.core.control import Annotation, ControlImage, ControlKind
from atelier.core.errors import NotSupported
from atelier.models.loading import Placement

_MODELS: Mapping[ControlKind, type[DepthEstimator]] = {"depth": DepthEstimator}


class Annotators:
    """OpenCV's drawing functions and the loaded models. Not thread-safe: used from one thread."""

    def __init__(self, entries: Sequence[AnnotatorEntry], placement: Placement) -> None:
        """Load the first model of each kind. Raises ModelUnavailable if files are missing."""
        first = {entry.kind: entry for entry in reversed(entries)}
        self._models = {kind: _MODELS[kind](entry, placement) for kind, entry in first.items()}

    def weights(self, kind: ControlKind) -> Mapping[str, str]:
        """Return {model id: weights hash} of the model that draws this kind of control map; empty for OpenCV."""
        return self._models[kind].weights if kind in self._models else {}

    def all_weights(self) -> dict[str, str]:
        """Return the weights hashes of all models, by id."""
        return {name: digest for model in self._models.values() for name, digest in model.weights.items()}

    def annotate(self, annotation: Annotation, pixels: ControlImage) -> ControlImage:
        """Draw the control map of an image [height, width, 3], in the same shape.

        Raises NotSupported if a model draws this kind and none is loaded.
        """
        kind = annotation.kind
        if kind in DRAWINGS:
            return DRAWINGS[kind](pixels, annotation)
        if kind not in self._models:
            raise NotSupported(
                f"This server has no model that draws {kind} maps; send the map itself, without annotate.",
                param="kind",
            )
        return self._models[kind].draw(pixels)
