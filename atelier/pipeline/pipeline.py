"""Runs a request through the graph: resolve → admit → read images → run, with its deadline and limits.

Equal requests are coalesced here. This module depends on neither Ray nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing
from contextvars import Context
from dataclasses import dataclass, replace
from random import SystemRandom

from atelier.catalogue.capabilities import Supported
from atelier.catalogue.catalogue import Catalogue
from atelier.core.errors import ReplicaLost
from atelier.core.geometry import Size
from atelier.core.params import AnnotateParams, GenerateParams, UpscaleParams
from atelier.imaging.formats import write_picture
from atelier.pipeline import reading
from atelier.pipeline.admission import Admission
from atelier.pipeline.cache import ResultCache
from atelier.pipeline.coalesce import Coalescer
from atelier.pipeline.controls import annotation_of, check_annotated_size
from atelier.pipeline.deadline import Deadline
from atelier.pipeline.events import Event, Planned, Reports
from atelier.pipeline.finish import Drawn, finish
from atelier.pipeline.inputs import InputSizes
from atelier.pipeline.loras import names_loras
from atelier.pipeline.record import RequestRecord
from atelier.pipeline.request_stages import RequestStages
from atelier.pipeline.resolve import Plan, resolve
from atelier.pipeline.results import ControlMap, Result, to_control_map
from atelier.pipeline.run import run
from atelier.pipeline.stages import Stages
from atelier.pipeline.upscaling import UpscaledImage, refuse_hires, resolve_enlargement

logger = logging.getLogger(__name__)

#: Maximum numbers of requests in progress as long as none has finished.
_MAX_UNMEASURED_GENERATIONS, _MAX_UNMEASURED_IMAGES = 64, 8
#: Maximum number of enlargements and control maps written at once; one of 4096 × 4096 pixels takes 100 MB.
_MAX_WRITTEN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLimits:
    """Limits of every request. They can be changed while requests are in progress."""

    #: Largest work of a generation: pixels × steps × images, over all of its passes.
    max_pixel_steps: int
    #: Longest predicted wait of an admitted request, in seconds.
    max_wait_s: float = math.inf
    #: Seconds in which a request without a `deadline_s` must be finished.
    default_deadline_s: float = math.inf


class Pipeline:
    """The graph's stages as three services: generations, enlargements and control maps."""

    def __init__(
        self,
        stages: Stages,
        catalogue: Catalogue,
        limits: PipelineLimits,
        *,
        cache: ResultCache | None = None,
        new_context: Callable[[], Context] = Context,
    ) -> None:
        """Without a `cache` every request is made anew. `new_context` makes contexts for shared generations."""
        self.stages = stages
        self.catalogue = catalogue
        self.cache = cache
        self._limits, max_wait_s = limits, limits.max_wait_s
        self._generations = Admission(max_wait_s=max_wait_s, max_unmeasured=_MAX_UNMEASURED_GENERATIONS)
        self._enlargements, self._annotations = (
            Admission(max_wait_s=max_wait_s, max_unmeasured=_MAX_UNMEASURED_IMAGES) for _ in range(2)
        )
        self._random = SystemRandom()
        self._running: Coalescer[Result] = Coalescer(new_context)
        self._writing = asyncio.Semaphore(_MAX_WRITTEN)

    def set_limits(self, limits: PipelineLimits) -> None:
        """Apply other limits to the requests that arrive from now on."""
        self._limits = limits
        for admission in (self._generations, self._enlargements, self._annotations):
            admission.max_wait_s = limits.max_wait_s

    def arriving(self) -> AbstractContextManager[None]:
        """Return the context in which a generation's body is read. Raises QueueFull if it would wait too long."""
        return self._generations.arriving()

    async def generate(self, record: RequestRecord, params: GenerateParams) -> Result:
        """Generate the images of a request.

        Equal requests that run at the same time share one generation, if they have a seed and no deadline.

        Raises InvalidRequest, a subclass of it or NotSupported if the request is rejected, QueueFull if it would wait
        too long, DeadlineExceeded after `deadline_s` or the default deadline, and the errors of the stages.
        """
        params = await self.seeded(params)
        if params.seed == -1 or params.deadline_s is not None:
            return await self._result(record, params)
        result = await self._running.once(params, lambda: self._result(record, params))
        if result.request_id != record.request_id:
            record.shared_with = result.request_id
            record.plan(result.plan)
            record.is_cached = result.is_cached
        return replace(result, request_id=record.request_id)

    async def stream(
        self,
        record: RequestRecord,
        params: GenerateParams,
        *,
        report_steps: bool = False,
        are_steps_sparse: bool = False,
        num_previews: int = 0,
    ) -> AsyncGenerator[Event]:
        """Like `generate`, but yields events and never coalesces; closing the iterator stops the work within a step.

        Steps are reported if `report_steps`, and only about one a second if `are_steps_sparse`: each costs a message.
        A rejected request raises its error before the first event.
        """
        params = await self.seeded(params)
        self.check_previews(params.model, num_previews)
        reports = Reports(
            steps=report_steps,
            are_steps_sparse=are_steps_sparse,
            num_previews=num_previews,
            latent_rgb=self.catalogue.model(params.model).latent_rgb,
        )
        deadline = Deadline(params.deadline_s, default_s=self._limits.default_deadline_s)
        async with aclosing(deadline.within(self._events(record, params, reports, deadline))) as events:
            async for event in events:
                yield event

    def check_previews(self, model: str | None, num_previews: int) -> None:
        """Raise NotSupported if previews are asked for and the model has none."""
        entry = self.catalogue.model(model)
        if num_previews:
            supported = Supported.of(entry, self.catalogue, self.catalogue.loras.latest)
            supported.check("previews", param="partial_images")

    async def seeded(self, params: GenerateParams) -> GenerateParams:
        """Return the params with the seed of equal requests before, if there is no seed and that is asked for."""
        if params.seed != -1 or params.cache != "prefer" or self._open_cache is None:
            return params
        return await self._open_cache.seeded(params)

    @property
    def _open_cache(self) -> ResultCache | None:
        """The cache, if there is one and it is switched on."""
        return self.cache if self.cache is not None and self.cache.is_on else None

    async def plan(self, params: GenerateParams) -> Plan:
        """Return what a generation would do, without doing it.

        Raises InvalidRequest, a subclass of it or NotSupported if the request would be rejected.
        """
        plan, _ = await self._resolved(params)
        return plan

    async def plan_upscale(self, params: UpscaleParams) -> tuple[str | None, Size]:
        """Return the upscaler of an enlargement, and the size of its image. Raises what `plan` raises."""
        size = await reading.size_of(params.image)
        return resolve_enlargement(params, size, self.catalogue), size

    async def plan_annotate(self, params: AnnotateParams) -> Size:
        """Return the size of an image whose control map is to be drawn. Raises what `plan` raises."""
        size = await reading.size_of(params.image)
        check_annotated_size(size)
        return size

    async def upscale(self, record: RequestRecord, params: UpscaleParams) -> UpscaledImage:
        """Enlarge a client's image.

        Raises InvalidParameter, ModelNotFound or TooMuchWork if the request is rejected, QueueFull if it would wait
        too long, DeadlineExceeded after the default deadline, and the errors of the stage.
        """
        deadline = self._default_deadline()
        async with deadline.enforced():
            upscaler, size = await self.plan_upscale(params)
            large = size.scaled(params.scale)
            record.model, record.size = upscaler, large
            with self._enlargements.admitted(large.num_pixels) as finish:
                pixels = await reading.pixels_of(params.image, size, keep_alpha=True)
                upscaled = await RequestStages(self.stages, record, deadline).upscale(upscaler, pixels, large, "fast")
                async with self._writing:
                    data = await asyncio.to_thread(
                        write_picture, upscaled.pixels, params.output_format, quality=params.output_compression
                    )
                finish()
        return UpscaledImage(data=data, size=large, upscaler=upscaled.upscaler)

    async def annotate(self, record: RequestRecord, params: AnnotateParams) -> ControlMap:
        """Draw the control map of an image, at the image's size.

        Raises InvalidParameter, NotSupported or TooMuchWork if the request is rejected, QueueFull if it would wait
        too long, DeadlineExceeded after the default deadline, and the errors of the stage.
        """
        deadline = self._default_deadline()
        async with deadline.enforced():
            size = record.size = await self.plan_annotate(params)
            with self._annotations.admitted(size.num_pixels) as finish:
                pixels = await reading.pixels_of(params.image, size, keep_alpha=False)
                drawn = await RequestStages(self.stages, record, deadline).annotate(annotation_of(params), pixels)
                async with self._writing:
                    control_map = await asyncio.to_thread(to_control_map, params.kind, drawn)
                finish()
        return control_map

    def _default_deadline(self) -> Deadline:
        return Deadline(None, default_s=self._limits.default_deadline_s)

    async def _resolved(self, params: GenerateParams) -> tuple[Plan, InputSizes]:
        sizes = await reading.sizes_of(params)
        library = self.catalogue.loras
        loras = await asyncio.to_thread(library.look) if names_loras(params) else library.latest
        plan = resolve(
            params,
            sizes,
            self.catalogue,
            loras=loras,
            max_pixel_steps=self._limits.max_pixel_steps,
            random=self._random,
        )
        return plan, sizes

    async def _result(self, record: RequestRecord, params: GenerateParams) -> Result:
        async with aclosing(self.stream(record, params)) as events:
            async for event in events:
                if isinstance(event, Result):
                    return event
        raise ReplicaLost("The generation ended without a result.")

    async def _events(
        self, record: RequestRecord, params: GenerateParams, reports: Reports, deadline: Deadline
    ) -> AsyncGenerator[Event]:
        """Run every check that can reject the request, cheap ones first and all before any model, then the plan.

        Before the plan is run, its images are looked for in the cache.
        """
        plan, sizes = await self._resolved(params)
        record.plan(plan)
        cache = None if params.seed == -1 or params.cache == "off" else self._open_cache
        found = None if cache is None else await cache.find(record.request_id, plan)
        if found is None:
            events = self._made(record, plan, sizes, reports, deadline)
        else:
            events = self._found(record, plan, found, deadline)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Result) and cache is not None and not event.is_cached:
                    await cache.keep(event)
                yield event

    async def _found(
        self, record: RequestRecord, plan: Plan, found: Result | Drawn, deadline: Deadline
    ) -> AsyncGenerator[Event]:
        """Answer a request from the cache, or finish the images that are there."""
        yield Planned(request_id=record.request_id, plan=plan)
        if isinstance(found, Result):
            record.is_cached = True
            yield found
            return
        num_pixels = plan.image_size.num_pixels * len(plan.seeds)
        with self._enlargements.admitted(num_pixels) as finish_admission:
            result = await finish(record.request_id, plan, found, RequestStages(self.stages, record, deadline))
            if not found.is_enlarged:
                finish_admission()
        yield result

    async def _made(
        self, record: RequestRecord, plan: Plan, sizes: InputSizes, reports: Reports, deadline: Deadline
    ) -> AsyncGenerator[Event]:
        with self._generations.admitted(plan.pixel_steps, plan.params.priority) as finish:
            inputs = await reading.inputs_of(plan.params, sizes, plan.passes[0].size)
            if inputs.mask is not None and plan.params.hires is not None:
                refuse_hires()
            stages = RequestStages(self.stages, record, deadline)
            async with aclosing(run(record.request_id, plan, inputs, stages, reports)) as events:
                async for event in events:
                    if isinstance(event, Result):
                        finish()
                    yield event
