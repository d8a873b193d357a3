"""Annotator: control maps of every kind."""

from __future__ import annotations

from atelier.catalogue.catalogue import Catalogue
from atelier.core.control import Annotation, ControlImage
from atelier.core.origin import Origin
from atelier.pipeline.stages import Annotated
from deployments.options import AnnotatorOptions
from deployments.replica import Replica


class Annotator(Replica):
    """The deployment that draws control maps."""

    def __init__(self, catalogue: Catalogue, options: AnnotatorOptions) -> None:
        """Load the models that draw control maps. Raises ModelUnavailable if files are missing or corrupt."""
        from atelier.local.images import AnnotatorStage

        super().__init__("annotator", options)
        self._stage = AnnotatorStage.load(catalogue, self._runtime)

    async def annotate(self, annotation: Annotation, pixels: ControlImage) -> Annotated:
        """Draw the control map of an image [height, width, 3]. Raises NotSupported if no model draws this kind."""
        return await self._stage.annotate(annotation, pixels)

    async def origin(self) -> Origin:
        """Return this replica's placement, and the weights of all its models."""
        return self._stage.origin()
