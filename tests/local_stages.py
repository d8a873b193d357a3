"""The stages in this process, without Ray: the same models and the same engine, called directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Floats, Text, TextEmbeds
from atelier.core.denoising import Denoised, DenoiseRequest, StepEvent
from atelier.core.errors import AtelierError
from atelier.engine.engine import Engine
from atelier.engine.request import Event
from atelier.engine.runner import Runner
from atelier.models.autoencoder import Autoencoder
from atelier.models.loading import Placement
from atelier.models.text_encoder import TextEncoders
from atelier.models.thread import ModelThread
from atelier.pipeline.stages import Pixels

CPU = Placement("cpu", "float32")


class LocalStages:
    def __init__(self, catalogue: Catalogue) -> None:
        self._thread = ModelThread("models", num_threads=1)
        self._text_encoders = self._thread.run(lambda: {e.id: TextEncoders(e, CPU) for e in catalogue.models})
        self._autoencoders = self._thread.run(lambda: {e.id: Autoencoder(e, CPU) for e in catalogue.models})
        self.engine = Engine(
            lambda: {entry.id: Runner(entry, CPU) for entry in catalogue.models}, num_threads=2, max_waiting=64
        )

    def close(self) -> None:
        self.engine.close()

    async def encode_texts(self, model: str, texts: Sequence[Text]) -> list[TextEmbeds]:
        encoders = self._text_encoders[model]
        for text in texts:
            encoders.check_length(text)
        return await self._thread.run_async(lambda: encoders.encode(texts))

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

    async def decode(self, model: str, latents: Floats) -> Pixels:
        return await self._thread.run_async(lambda: self._autoencoders[model].decode(latents))

    async def are_ready(self) -> bool:
        return True
