"""The stages in this process, without Ray: the same models and the same engine, called directly."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from atelier.catalogue.catalogue import Catalogue
from atelier.control.annotators import Annotators
from atelier.control.controlnets import load_controlnets
from atelier.control.transports import InProcess
from atelier.core.conditioning import Floats, Text
from atelier.core.control import Annotation, ControlImage
from atelier.core.denoising import Denoised, DenoiseRequest, StepEvent
from atelier.core.errors import AtelierError
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.engine.engine import Engine, EngineSettings, Runners, StepReport
from atelier.engine.request import Event
from atelier.engine.runner import load_runners
from atelier.models.autoencoder import Autoencoder
from atelier.models.loading import Placement
from atelier.families.sdxl.text import TextEncoders
from atelier.models.thread import ModelThread
from atelier.models.upscaler import Enlargement, Upscalers
from atelier.pipeline.stages import Annotated, Decoded, EncodedPictures, EncodedTexts, Pixels, Upscaled

CPU = Placement("cpu", "float32")
_WAIT_S = 120
HERE = "here"
SETTINGS = EngineSettings(num_threads=2, max_waiting=64, max_rows=32, exact_width=4)


def new_engine(
    catalogue: Catalogue,
    *,
    max_waiting: int = 64,
    max_rows: int = 32,
    observe: Callable[[StepReport], None] = lambda _: None,
) -> Engine:
    settings = replace(SETTINGS, max_waiting=max_waiting, max_rows=max_rows)

    def load() -> Runners:
        return load_runners(catalogue.models, CPU, InProcess(load_controlnets(catalogue, CPU)))

    return Engine(load, settings, place=HERE, observe=observe)


def run_together(engine: Engine, requests: Sequence[DenoiseRequest]) -> list[Floats]:
    """Final latents of requests that are all in the engine at once."""
    ends: list[queue.Queue[Event]] = [queue.Queue() for _ in requests]
    for request, events in zip(requests, ends, strict=True):
        engine.submit(request, events.put)
    latents = []
    for events in ends:
        event = events.get(timeout=_WAIT_S)
        assert isinstance(event, Denoised), event
        latents.append(event.latents)
    return latents


class LocalStages:
    def __init__(self, catalogue: Catalogue) -> None:
        self._thread = ModelThread("models", num_threads=1)
        self._text_encoders = self._thread.run(lambda: {e.id: TextEncoders(e, CPU) for e in catalogue.models})
        self._autoencoders = self._thread.run(lambda: {e.id: Autoencoder(e, CPU) for e in catalogue.models})
        self._annotators = self._thread.run(lambda: Annotators(catalogue.annotators, CPU))
        self._upscalers = self._thread.run(lambda: Upscalers(catalogue.upscalers, CPU))
        self.engine = new_engine(catalogue)

    def close(self) -> None:
        self.engine.close()

    async def encode_texts(self, model: str, texts: Sequence[Text], reproducibility: Reproducibility) -> EncodedTexts:
        encoders = self._text_encoders[model]
        for text in texts:
            encoders.check_length(text)
        calls = [[text] for text in texts] if reproducibility == "exact" else [texts]
        embeds = [await self._thread.run_async(partial(encoders.encode, call)) for call in calls]
        origin = Origin(HERE, {f"{model}/text_encoders": encoders.weights_hash})
        return EncodedTexts([of_text for of_call in embeds for of_text in of_call], origin)

    async def encode(self, model: str, pixels: Pixels) -> EncodedPictures:
        mean, std = await self._thread.run_async(lambda: self._autoencoders[model].encode(pixels))
        return EncodedPictures(mean, std, self._origin_of_vae(model))

    async def annotate(self, annotation: Annotation, picture: ControlImage) -> Annotated:
        drawn = await self._thread.run_async(lambda: self._annotators.annotate(annotation, picture))
        return Annotated(drawn, Origin(HERE, self._annotators.weights(annotation.kind)))

    @asynccontextmanager
    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[AsyncIterator[StepEvent | Denoised]]:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def emit(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        async def stream() -> AsyncIterator[StepEvent | Denoised]:
            while True:
                event = await events.get()
                if isinstance(event, AtelierError):
                    raise event
                yield event

        self.engine.submit(request, emit)
        try:
            yield stream()
        finally:
            self.engine.cancel(request.request_id)

    async def decode(self, model: str, latents: Floats) -> Decoded:
        pixels = await self._thread.run_async(lambda: self._autoencoders[model].decode(latents))
        return Decoded(pixels, self._origin_of_vae(model))

    async def upscale(
        self,
        name: str | None,
        pixels: Pixels,
        reproducibility: Reproducibility,  # noqa: ARG002 here every picture is enlarged alone
        *,
        width: int,
        height: int,
    ) -> Upscaled:
        task = Enlargement(name, pixels, width, height)
        [(large, made_by)] = await self._thread.run_in_steps(self._upscalers.upscale([task]))
        return Upscaled(large, made_by, Origin(HERE, self._upscalers.weights(made_by)))

    async def metrics_text(self) -> str:
        return f"atelier_denoiser_steps_total {self.engine.status().num_steps}\n"

    async def are_ready(self) -> bool:
        return True

    def _origin_of_vae(self, model: str) -> Origin:
        return Origin(HERE, {f"{model}/vae": self._autoencoders[model].weights_hash})
