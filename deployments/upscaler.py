"""Upscaler: every upscaler of the catalogue in one thread; small pictures of several requests share its passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray import serve

from atelier.catalogue.catalogue import Catalogue
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.pipeline.stages import Pixels, Upscaled
from deployments.options import UpscalerOptions

if TYPE_CHECKING:
    from atelier.models.upscaler import Enlargement

_MAX_BATCH = 16
_BATCH_WAIT_S = 0.002


class Upscaler:
    def __init__(self, catalogue: Catalogue, options: UpscalerOptions) -> None:
        from atelier.models.hashes import place_hash
        from atelier.models.thread import ModelThread
        from atelier.models.upscaler import Upscalers
        from deployments.accelerator import placement

        place = placement(options)
        self._stall_s = options.stall_s
        self._thread = ModelThread("upscaler", num_threads=options.num_threads)
        self._place = place_hash(place, num_threads=options.num_threads, width=1)
        self._upscalers = self._thread.run(lambda: Upscalers(catalogue.upscalers, place))

    async def upscale(
        self, name: str | None, pixels: Pixels, width: int, height: int, reproducibility: Reproducibility
    ) -> Upscaled:
        from atelier.models.upscaler import Enlargement, is_small

        task = Enlargement(name, pixels, width, height)
        if reproducibility == "fast" and is_small(pixels):
            upscaled: Upscaled = await self._upscale_together(task)
            return upscaled
        [upscaled] = await self._upscale([task])
        return upscaled

    @serve.batch(max_batch_size=_MAX_BATCH, batch_wait_timeout_s=_BATCH_WAIT_S)
    async def _upscale_together(self, tasks: list[Enlargement]) -> list[Upscaled]:
        return await self._upscale(tasks)

    async def _upscale(self, tasks: list[Enlargement]) -> list[Upscaled]:
        made = await self._thread.run_in_steps(self._upscalers.upscale(tasks))
        return [
            Upscaled(large, made_by, Origin(self._place, self._upscalers.weights(made_by))) for large, made_by in made
        ]

    async def ping(self) -> None:
        """Answers when the replica is alive."""

    def check_health(self) -> None:
        self._thread.check(stall_s=self._stall_s)
