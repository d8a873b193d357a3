"""Real stages whose calls tests can see, hold up and make fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NamedTuple

from atelier.core.conditioning import Floats, Prompts
from atelier.core.control import Annotation, ControlImage
from atelier.core.denoising import DecodedPreview, Denoised, DenoiseEvent, DenoiseRequest, StepEvent
from atelier.core.geometry import Size
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.core.status import GraphStatus, Holders
from atelier.pipeline.stages import (
    Annotated,
    DecodedLatents,
    EncodedLatents,
    EncodedTexts,
    ModelStage,
    Pixels,
    Stages,
    Upscaled,
)


class Call(NamedTuple):
    """One call of a stage."""

    stage: str
    args: tuple[object, ...]


class RecordingStages:
    """Stages that record their calls in order and pass them on."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self.calls: list[Call] = []
        #: Every denoising request, in order.
        self.requests: list[DenoiseRequest] = []
        #: Errors to raise, by the name of the stage that raises them.
        self.failures: dict[str, Exception] = {}
        #: Whether streams of the denoiser end without latents.
        self.drops_latents = False
        #: Previews that streams of the denoiser have before their latents, in place of the stages' own.
        self.previews: list[DecodedPreview] = []
        #: Whether the stages answer that they are ready.
        self.is_ready = True
        #: What `status` answers instead of the stages.
        self.given_status: GraphStatus | None = None
        #: Set when a denoising request arrives, and when one ends or its stream is closed early.
        self.denoising, self.ended = asyncio.Event(), asyncio.Event()
        #: Denoising requests wait while the first event is cleared, and decodes while the second is.
        self.may_denoise, self.may_decode = asyncio.Event(), asyncio.Event()
        self.may_denoise.set()
        self.may_decode.set()

    @property
    def names(self) -> list[str]:
        """Names of the stages that were called, in order."""
        return [call.stage for call in self.calls]

    def args_of(self, stage: str) -> list[tuple[object, ...]]:
        """Arguments of all calls of a stage, in order."""
        return [call.args for call in self.calls if call.stage == stage]

    def _record(self, stage: str, *args: object) -> None:
        self.calls.append(Call(stage, args))
        if stage in self.failures:
            raise self.failures[stage]

    async def encode_texts(self, model: str, prompts: Prompts, reproducibility: Reproducibility) -> EncodedTexts:
        self._record("encode_texts", model, prompts, reproducibility)
        return await self._stages.encode_texts(model, prompts, reproducibility)

    async def encode_latents(self, model: str, pixels: Pixels) -> EncodedLatents:
        self._record("encode_latents", model, pixels)
        return await self._stages.encode_latents(model, pixels)

    async def annotate(self, annotation: Annotation, pixels: ControlImage) -> Annotated:
        self._record("annotate", annotation, pixels)
        return await self._stages.annotate(annotation, pixels)

    @asynccontextmanager
    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[AsyncIterator[DenoiseEvent]]:
        self._record("denoise", request)
        self.requests.append(request)
        self.denoising.set()
        try:
            await self.may_denoise.wait()
            async with self._stages.denoise(request) as events:
                yield self._changed(events)
        finally:
            self.ended.set()

    async def decode_latents(self, model: str, latents: Floats) -> DecodedLatents:
        self._record("decode_latents", model, latents)
        await self.may_decode.wait()
        return await self._stages.decode_latents(model, latents)

    async def upscale(
        self, upscaler: str | None, pixels: Pixels, size: Size, reproducibility: Reproducibility
    ) -> Upscaled:
        self._record("upscale", upscaler, pixels, size, reproducibility)
        return await self._stages.upscale(upscaler, pixels, size, reproducibility)

    async def origin(self, stage: ModelStage) -> Origin:
        self._record("origin", stage)
        return await self._stages.origin(stage)

    async def load_model(self, model: str) -> Holders:
        self._record("load_model", model)
        return await self._stages.load_model(model)

    async def unload_model(self, model: str) -> Holders:
        self._record("unload_model", model)
        return await self._stages.unload_model(model)

    async def metrics_text(self) -> str:
        return await self._stages.metrics_text()

    async def check_ready(self) -> bool:
        return self.is_ready and await self._stages.check_ready()

    async def status(self) -> GraphStatus:
        return self.given_status or await self._stages.status()

    async def _changed(self, events: AsyncIterator[DenoiseEvent]) -> AsyncIterator[DenoiseEvent]:
        async for event in events:
            if isinstance(event, Denoised):
                for preview in self.previews:
                    yield preview
                if self.drops_latents:
                    continue
            if isinstance(event, StepEvent) and self.previews:
                event = replace(event, preview=None)
            yield event
