"""Runs a request through the graph: resolve → read images → run, with its deadline and limits.

Equal requests are coalesced here. This module depends on neither Ray nor HTTP.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from random import SystemRandom
from typing import TypeVar

from atelier.catalogue.catalogue import Catalogue
from atelier.core.denoising import RequestId
from atelier.core.errors import NotSupported, ReplicaLost
from atelier.core.params import AnnotateParams, GenerateParams, UpscaleParams
from atelier.pipeline.admission import Admission
from atelier.pipeline.coalesce import Coalescer
from atelier.pipeline.controls import annotation_of, pixels_to_annotate
from atelier.pipeline.deadline import within
from atelier.pipeline.events import Event, Reports
from atelier.pipeline.inputs import Inputs, read_inputs, read_sizes
from atelier.pipeline.resolve import Plan, resolve
from atelier.pipeline.results import ControlMap, Result, to_control_map
from atelier.pipeline.run import run
from atelier.pipeline.stages import Stages
from atelier.pipeline.upscaling import UpscaledImage, pixels_to_upscale, refuse_hires, upscale_image

#: Maximum number of input images decoded at full size at once; the six that a request may have can take 400 MB.
_MAX_LARGE_IMAGES = 2

T = TypeVar("T")


class Pipeline:
    """The graph's stages as three services: generations, enlargements and control maps."""

    def __init__(
        self, stages: Stages, catalogue: Catalogue, *, max_pixel_steps: int, max_wait_s: float = math.inf
    ) -> None:
        """Reject generations of more than `max_pixel_steps`, and those that would wait longer than `max_wait_s`."""
        self.stages = stages
        self.catalogue = catalogue
        self._max_pixel_steps = max_pixel_steps
        self._admission = Admission(max_wait_s=max_wait_s)
        self._random = SystemRandom()
        self._running: Coalescer[Result] = Coalescer()
        #: Images are decoded only in these threads, which bounds memory even after a client has left.
        self._image_threads = ThreadPoolExecutor(_MAX_LARGE_IMAGES, "images")
        #: Limits how many upscale and annotate requests hold an image in memory, at the size it was sent or larger.
        self._large_answers = asyncio.Semaphore(_MAX_LARGE_IMAGES)

    async def generate(self, request_id: RequestId, params: GenerateParams) -> Result:
        """Generate the images of a request.

        Equal requests that run at the same time share one generation, if they have a seed and no deadline.

        Raises InvalidRequest, a subclass of it or NotSupported if the request is rejected, QueueFull if it would wait
        too long, DeadlineExceeded after `deadline_s`, and the errors of the stages.
        """
        if params.seed == -1 or params.deadline_s is not None:
            return await self._result(request_id, params)
        result = await self._running.once(params, lambda: self._result(request_id, params))
        return replace(result, request_id=request_id)

    async def stream(
        self, request_id: RequestId, params: GenerateParams, *, report_steps: bool = False, num_previews: int = 0
    ) -> AsyncGenerator[Event]:
        """Like `generate`, but yields events and never coalesces; closing the iterator stops the work within a step.

        A rejected request raises its error before the first event.
        """
        entry = self.catalogue.model(params.model)
        if num_previews and entry.latent_rgb is None:
            raise NotSupported(f"{entry.id} has no previews.", param="partial_images")
        reports = Reports(steps=report_steps, num_previews=num_previews, latent_rgb=entry.latent_rgb)
        async with aclosing(within(self._events(request_id, params, reports), params.deadline_s)) as events:
            async for event in events:
                yield event

    async def upscale(self, params: UpscaleParams) -> UpscaledImage:
        """Enlarge a client's image. Raises InvalidParameter or ModelNotFound."""
        async with self._large_answers:
            upscaler, pixels = await self._in_image_thread(lambda: pixels_to_upscale(params, self.catalogue))
            return await upscale_image(self.stages, params, upscaler, pixels)

    async def annotate(self, params: AnnotateParams) -> ControlMap:
        """Draw the control map of an image, at the image's size. Raises InvalidParameter or NotSupported."""
        async with self._large_answers:
            pixels = await self._in_image_thread(lambda: pixels_to_annotate(params.image))
            drawn = await self.stages.annotate(annotation_of(params), pixels)
            return await asyncio.to_thread(to_control_map, params.kind, drawn)

    async def _result(self, request_id: RequestId, params: GenerateParams) -> Result:
        async with aclosing(self.stream(request_id, params)) as events:
            async for event in events:
                if isinstance(event, Result):
                    return event
        raise ReplicaLost("The generation ended without a result.")

    async def _events(self, request_id: RequestId, params: GenerateParams, reports: Reports) -> AsyncGenerator[Event]:
        plan, inputs = (
            await self._in_image_thread(lambda: self._accept(params)) if params.has_images else self._accept(params)
        )
        with self._admission.admitted(plan.pixel_steps) as finish:
            async with aclosing(run(request_id, plan, inputs, self.stages, reports)) as events:
                async for event in events:
                    if isinstance(event, Result):
                        finish()
                    yield event

    def _accept(self, params: GenerateParams) -> tuple[Plan, Inputs]:
        """Run every check that can reject the request, cheap ones first and all before any model runs."""
        plan = resolve(
            params,
            read_sizes(params),
            self.catalogue,
            max_pixel_steps=self._max_pixel_steps,
            random=self._random,
        )
        inputs = read_inputs(plan.params, plan.passes[0].size)
        if inputs.mask is not None and plan.params.hires is not None:
            refuse_hires()
        return plan, inputs

    async def _in_image_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._image_threads, call)
