"""A request told while it is made: progress and previews, then the result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from atelier.core.denoising import StepEvent
from atelier.core.errors import NotSupported
from atelier.core.params import GenerateParams
from atelier.imaging.formats import encode_picture
from atelier.imaging.preview import preview
from atelier.pipeline.pipeline import Listener, Pipeline
from atelier.pipeline.plan import Plan
from atelier.pipeline.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    step: int
    total: int
    elapsed_s: float
    eta_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """How the pictures look so far."""

    #: From zero.
    index: int
    plan: Plan
    #: Encoded files, one for each picture.
    files: tuple[bytes, ...]


Event = Plan | Progress | Preview | Result


async def stream(
    pipeline: Pipeline, params: GenerateParams, *, num_previews: int, wants_progress: bool
) -> AsyncGenerator[Event]:
    """The plan first, the result last; leaving stops the work before the next step.

    Raises what `Pipeline.make` raises, before the plan if the request is refused; and NotSupported for previews
    of a model of which is not known how its latents look.
    """
    heard: asyncio.Queue[Plan | StepEvent | None] = asyncio.Queue()
    listener = Listener(hear=heard.put_nowait, wants_steps=wants_progress, num_previews=num_previews)
    work = asyncio.create_task(pipeline.make(params, listener))
    work.add_done_callback(lambda _: heard.put_nowait(None))
    try:
        plan = await heard.get()
        if isinstance(plan, Plan):
            if num_previews and pipeline.catalogue.model(plan.model).latent_rgb is None:
                raise NotSupported(f"{plan.model} has no previews.", param="partial_images")
            yield plan
            told = _Told(pipeline, plan, wants_progress=wants_progress)
            while isinstance(event := await heard.get(), StepEvent):
                for told_event in await told.of(event):
                    yield told_event
        yield await work
    finally:
        work.cancel()
        await asyncio.wait([work])


class _Told:
    """Makes what a client is told of the engine's events."""

    def __init__(
        self, pipeline: Pipeline, plan: Plan, *, wants_progress: bool, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._latent_rgb = pipeline.catalogue.model(plan.model).latent_rgb
        self._plan = plan
        self._wants_progress = wants_progress
        self._now_s = now_s
        self._started_s = now_s()
        self._num_previews = 0

    async def of(self, event: StepEvent) -> list[Event]:
        told: list[Event] = []
        if self._wants_progress:
            elapsed_s = self._now_s() - self._started_s
            eta_s = elapsed_s / event.step * (event.total - event.step)
            told.append(Progress(step=event.step, total=event.total, elapsed_s=elapsed_s, eta_s=eta_s))
        if event.preview is not None:
            files = await asyncio.to_thread(self._files, event)
            told.append(Preview(index=self._num_previews, plan=self._plan, files=files))
            self._num_previews += 1
        return told

    def _files(self, event: StepEvent) -> tuple[bytes, ...]:
        assert event.preview is not None
        assert self._latent_rgb is not None
        size, plan = self._plan.size, self._plan
        return tuple(
            encode_picture(
                preview(latents, self._latent_rgb, width=size.width, height=size.height),
                plan.output_format,
                quality=plan.output_compression,
            )
            for latents in event.preview
        )
