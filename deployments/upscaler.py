"""Upscaler: every upscaler of the catalogue, one picture at a time in its own thread."""

from __future__ import annotations

from atelier.catalogue.catalogue import Catalogue
from atelier.core.origin import Origin
from atelier.pipeline.stages import Pixels, Upscaled
from deployments.options import UpscalerOptions


class Upscaler:
    def __init__(self, catalogue: Catalogue, options: UpscalerOptions) -> None:
        from atelier.models.origins import place_hash
        from atelier.models.thread import ModelThread
        from atelier.models.upscaler import Upscalers
        from deployments.accelerator import placement

        place = placement(options)
        self._stall_s = options.stall_s
        self._thread = ModelThread("upscaler", num_threads=options.num_threads)
        self._place = place_hash(place, num_threads=options.num_threads, width=1)
        self._upscalers = self._thread.run(lambda: Upscalers(catalogue.upscalers, place))

    async def upscale(self, name: str | None, pixels: Pixels, width: int, height: int) -> Upscaled:
        large, made_by = await self._thread.run_async(
            lambda: self._upscalers.upscale(name, pixels, width=width, height=height)
        )
        return Upscaled(large, made_by, Origin(self._place, self._upscalers.weights(made_by)))

    async def ping(self) -> None:
        """Answers when the replica is alive."""

    def check_health(self) -> None:
        self._thread.check(stall_s=self._stall_s)
