"""Runs a request through the graph: resolve → admit → read images → run, with its deadline and limits.

Equal requests are coalesced here. This module depends on neither Ray nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from random import SystemRandom

from atelier.catalogue.catalogue import Catalogue
from atelier.core.denoising import RequestId
from atelier.core.errors import NotSupported, ReplicaLost
from atelier.core.params import AnnotateParams, GenerateParams, UpscaleParams
from atelier.imaging.formats import write_picture
from atelier.pipeline import reading
from atelier.pipeline.admission import Admission
from atelier.pipeline.coalesce import Coalescer
from atelier.pipeline.controls import annotation_of, check_annotated_size
from atelier.pipeline.deadline import within
from atelier.pipeline.events import Event, Reports
from atelier.pipeline.resolve import resolve
from atelier.pipeline.results import ControlMap, Result, to_control_map
from atelier.pipeline.run import run
from atelier.pipeline.stages import Stages
from atelier.pipeline.upscaling import UpscaledImage, refuse_hires, resolve_enlargement

logger = logging.getLogger(__name__)

#: Maximum numbers of requests in progress as long as none has finished.
_MAX_UNMEASURED_GENERATIONS, _MAX_UNMEASURED_IMAGES = 64, 8
#: Maximum number of enlargements and control maps written at once; one of 4096 × 4096 pixels takes 100 MB.
_MAX_WRITTEN = 2


class Pipeline:
    """The graph's stages as three services: generations, enlargements and control maps."""

    def __init__(
        self, stages: Stages, catalogue: Catalogue, *, max_pixel_steps: int, max_wait_s: float = math.inf
    ) -> None:
        """Reject generations of more than `max_pixel_steps`, and those that would wait longer than `max_wait_s`."""
        self.stages = stages
        self.catalogue = catalogue
        self._max_pixel_steps = max_pixel_steps
        self._generations = Admission(max_wait_s=max_wait_s, max_unmeasured=_MAX_UNMEASURED_GENERATIONS)
        self._enlargements, self._annotations = (
            Admission(max_wait_s=max_wait_s, max_unmeasured=_MAX_UNMEASURED_IMAGES) for _ in range(2)
        )
        self._random = SystemRandom()
        self._running: Coalescer[Result] = Coalescer()
        self._writing = asyncio.Semaphore(_MAX_WRITTEN)

    def arriving(self) -> AbstractContextManager[None]:
        """Return the context in which a generation's body is read. Raises QueueFull if it would wait too long."""
        return self._generations.arriving()

    async def generate(self, request_id: RequestId, params: GenerateParams) -> Result:
        """Generate the images of a request.

        Equal requests that run at the same time share one generation, if they have a seed and no deadline.

        Raises InvalidRequest, a subclass of it or NotSupported if the request is rejected, QueueFull if it would wait
        too long, DeadlineExceeded after `deadline_s`, and the errors of the stages.
        """
        if params.seed == -1 or params.deadline_s is not None:
            return await self._result(request_id, params)
        result = await self._running.once(params, lambda: self._result(request_id, params))
        if result.request_id != request_id:
            logger.info("%s shared the generation of %s", request_id, result.request_id)
        return replace(result, request_id=request_id)

    async def stream(
        self, request_id: RequestId, params: GenerateParams, *, report_steps: bool = False, num_previews: int = 0
    ) -> AsyncGenerator[Event]:
        """Like `generate`, but yields events and never coalesces; closing the iterator stops the work within a step.

        A rejected request raises its error before the first event.
        """
        entry = self.catalogue.model(params.model)
        if num_previews and entry.latent_rgb is None:
            raise NotSupported(f"{entry.id} has no previews; leave out partial_images.", param="partial_images")
        reports = Reports(steps=report_steps, num_previews=num_previews, latent_rgb=entry.latent_rgb)
        async with aclosing(within(self._events(request_id, params, reports), params.deadline_s)) as events:
            async for event in events:
                yield event

    async def upscale(self, params: UpscaleParams) -> UpscaledImage:
        """Enlarge a client's image.

        Raises InvalidParameter, ModelNotFound or TooMuchWork if the request is rejected, QueueFull if it would wait
        too long, and the errors of the stage.
        """
        size = await reading.size_of(params.image)
        upscaler, large = resolve_enlargement(params, size, self.catalogue), size.scaled(params.scale)
        with self._enlargements.admitted(large.num_pixels) as finish:
            pixels = await reading.pixels_of(params.image, size, keep_alpha=True)
            upscaled = await self.stages.upscale(upscaler, pixels, large, "fast")
            async with self._writing:
                data = await asyncio.to_thread(
                    write_picture, upscaled.pixels, params.output_format, quality=params.output_compression
                )
            finish()
        return UpscaledImage(data=data, size=large, upscaler=upscaled.upscaler)

    async def annotate(self, params: AnnotateParams) -> ControlMap:
        """Draw the control map of an image, at the image's size.

        Raises InvalidParameter, NotSupported or TooMuchWork if the request is rejected, QueueFull if it would wait
        too long, and the errors of the stage.
        """
        size = await reading.size_of(params.image)
        check_annotated_size(size)
        with self._annotations.admitted(size.num_pixels) as finish:
            pixels = await reading.pixels_of(params.image, size, keep_alpha=False)
            drawn = await self.stages.annotate(annotation_of(params), pixels)
            async with self._writing:
                control_map = await asyncio.to_thread(to_control_map, params.kind, drawn)
            finish()
        return control_map

    async def _result(self, request_id: RequestId, params: GenerateParams) -> Result:
        async with aclosing(self.stream(request_id, params)) as events:
            async for event in events:
                if isinstance(event, Result):
                    return event
        raise ReplicaLost("The generation ended without a result.")

    async def _events(self, request_id: RequestId, params: GenerateParams, reports: Reports) -> AsyncGenerator[Event]:
        """Run every check that can reject the request, cheap ones first and all before any model, then the plan."""
        sizes = await reading.sizes_of(params)
        plan = resolve(params, sizes, self.catalogue, max_pixel_steps=self._max_pixel_steps, random=self._random)
        with self._generations.admitted(plan.pixel_steps) as finish:
            inputs = await reading.inputs_of(plan.params, sizes, plan.passes[0].size)
            if inputs.mask is not None and plan.params.hires is not None:
                refuse_hires()
            async with aclosing(run(request_id, plan, inputs, self.stages, reports)) as events:
                async for event in events:
                    if isinstance(event, Result):
                        finish()
                    yield event
