"""A generation as an iterator of events: encode → denoise → decode, once or twice, then enlarge and write files.

Plain answers and streams read the same iterator. This module depends on neither Ray nor HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from atelier.core.denoising import DecodedPreview, Denoised, RequestId, StepEvent
from atelier.core.geometry import Size
from atelier.imaging.formats import write_picture
from atelier.imaging.inputs import RgbPixels
from atelier.imaging.preview import projected, resized
from atelier.pipeline.events import Event, Planned, Preview, Reports, Step
from atelier.pipeline.finish import Drawn, finish
from atelier.pipeline.inputs import Inputs
from atelier.pipeline.prepare import prepare, prepare_hires
from atelier.pipeline.provenance import Provenance
from atelier.pipeline.request_stages import RequestStages
from atelier.pipeline.resolve import Plan
from atelier.pipeline.results import map_files, paint_over, usage_of
from atelier.pipeline.stages import Pixels, Upscaled

_NO_REPORTS = Reports()


async def run(
    request_id: RequestId, plan: Plan, inputs: Inputs, stages: RequestStages, reports: Reports = _NO_REPORTS
) -> AsyncGenerator[Event]:
    """Generate the images of a plan and yield its events: `Planned` first, `Result` last.

    Closing the iterator stops the work within a step. Errors of the stages are passed on.
    """
    yield Planned(request_id=request_id, plan=plan)
    provenance, reporter, params = Provenance(), _Reporter(plan, reports), plan.params
    request, drawn_maps = await prepare(request_id, plan, inputs, stages, provenance, reports)
    first, enlarged = request, list[Upscaled]()
    pixels: Pixels | None = None
    for index, pass_ in enumerate(plan.passes):
        if pixels is not None and params.hires is not None:
            upscaler = params.hires.model
            request, upscaled = await prepare_hires(first, pass_, pixels, upscaler, stages, provenance)
            enlarged += upscaled
        async with aclosing(stages.denoise(request)) as events:
            async for event in events:
                if isinstance(event, Denoised):
                    denoised = event
                    continue
                for report in await reporter.reports(event, pass_index=index):
                    yield report
        decoded = await stages.decode_latents(plan.model, denoised.latents)
        provenance.record(denoised, decoded)
        pixels = await asyncio.to_thread(paint_over, decoded.pixels, inputs)
    assert pixels is not None, "a plan has at least one pass"
    drawn = Drawn(
        images=list(pixels),
        control_maps=await asyncio.to_thread(map_files, params.controls, drawn_maps),
        usage=usage_of(first, plan),
        upscalers=tuple(image.upscaler for image in enlarged),
        provenance=provenance,
    )
    yield await finish(request_id, plan, drawn, stages)


class _Reporter:
    """Turns the engine's events into the reports that were asked for."""

    def __init__(self, plan: Plan, reports: Reports) -> None:
        self._plan = plan
        self._reports = reports
        self._num_steps = [pass_.sampling.num_evaluations for pass_ in plan.passes]
        self._started_s = time.monotonic()
        self._num_previews = 0

    async def reports(self, event: StepEvent | DecodedPreview, *, pass_index: int) -> Sequence[Step | Preview]:
        """Return the reports of an event: its step, its preview, both or neither."""
        reports: list[Step | Preview] = []
        if self._reports.steps and isinstance(event, StepEvent):
            step = sum(self._num_steps[:pass_index]) + event.step
            elapsed_s = time.monotonic() - self._started_s
            reports.append(Step(step=step, total=sum(self._num_steps), elapsed_s=elapsed_s))
        if isinstance(event, DecodedPreview) or event.preview is not None:
            files = await asyncio.to_thread(self._preview_files, event)
            reports.append(Preview(index=self._num_previews, files=files))
            self._num_previews += 1
        return reports

    def _preview_files(self, event: StepEvent | DecodedPreview) -> tuple[bytes, ...]:
        params = self._plan.params
        return tuple(
            write_picture(pixels, params.output_format, quality=params.output_compression)
            for pixels in self._preview_pixels(event, self._plan.passes[0].size)
        )

    def _preview_pixels(self, event: StepEvent | DecodedPreview, size: Size) -> list[RgbPixels]:
        if isinstance(event, DecodedPreview):
            return [resized(pixels, size) for pixels in event.pixels]
        assert event.preview is not None
        assert self._reports.latent_rgb is not None, "a model without a preview decoder has a projection"
        return [projected(latents, self._reports.latent_rgb, size) for latents in event.preview]
