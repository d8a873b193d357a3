"""Upscaler: every upscaler of the catalogue; small images of several requests share its passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray import serve

from atelier.catalogue.catalogue import Catalogue
from atelier.core.geometry import Size
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.pipeline.stages import Pixels, Upscaled
from deployments.options import UpscalerOptions
from deployments.replica import Replica

if TYPE_CHECKING:
    from atelier.models.upscaler import UpscaleTask

_MAX_BATCH = 16
_BATCH_WAIT_S = 0.002


class Upscaler(Replica):
    """The deployment that resizes images."""

    def __init__(self, catalogue: Catalogue, options: UpscalerOptions) -> None:
        """Load the upscalers. Raises ModelUnavailable if a model's file is corrupt."""
        from atelier.local.images import UpscalerStage

        super().__init__("upscaler", options)
        self._stage = UpscalerStage.load(catalogue, self._runtime)

    async def upscale(
        self, upscaler: str | None, pixels: Pixels, size: Size, reproducibility: Reproducibility
    ) -> Upscaled:
        """Resize one image [height, width, 3 or 4]; bicubically if `upscaler` is None or its weights are missing."""
        from atelier.models.upscaler import UpscaleTask, is_small

        task = UpscaleTask(upscaler, pixels, size)
        # The bits of an `exact` request must not depend on other images; a large image fills its passes anyway.
        if reproducibility == "fast" and is_small(pixels):
            upscaled: Upscaled = await self._upscale_batch(task)
            return upscaled
        [upscaled] = await self._stage.upscale([task])
        return upscaled

    async def origin(self) -> Origin:
        """Return this replica's placement, and the weights of all its models."""
        return self._stage.origin()

    @serve.batch(max_batch_size=_MAX_BATCH, batch_wait_timeout_s=_BATCH_WAIT_S)
    async def _upscale_batch(self, tasks: list[UpscaleTask]) -> list[Upscaled]:
        return await self._stage.upscale(tasks)
