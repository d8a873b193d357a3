"""The denoising stage: an engine, and the events of one request as an asynchronous stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from atelier.catalogue.catalogue import Catalogue
from atelier.control.transports import Transport
from atelier.core.denoising import HEARTBEAT_S, DecodedPreview, Denoised, DenoiseEvent, DenoiseRequest, Heartbeat
from atelier.core.errors import AtelierError
from atelier.engine.engine import Engine, EngineSettings, StepReport
from atelier.engine.request import Event
from atelier.engine.runners import Runners, load_runners
from atelier.local.previews import Previews
from atelier.models.hashes import place_hash
from atelier.models.host import ModelHost
from atelier.models.loading import Placement


def new_engine(
    catalogue: Catalogue,
    placement: Placement,
    settings: EngineSettings,
    *,
    transport: Callable[[ModelHost], Transport],
    observe: Callable[[StepReport], None] = lambda _: None,
) -> Engine:
    """Create an engine for the models of the catalogue. Raises ModelUnavailable.

    `transport` is called in the engine's thread, because ControlNets in the same process run there, with the host
    that they share with the UNets.
    """

    def load() -> Runners:
        host = ModelHost(placement)
        return load_runners(
            catalogue.models,
            placement,
            transport(host),
            find=catalogue.model,
            host=host,
            find_lora=catalogue.loras.file,
        )

    place = place_hash(placement, num_threads=settings.num_threads, width=settings.exact_width)
    return Engine(load, settings, place=place, observe=observe)


@asynccontextmanager
async def event_stream(
    engine: Engine, previews: Previews, request: DenoiseRequest
) -> AsyncIterator[AsyncIterator[DenoiseEvent]]:
    """Submit a request and iterate over its events, `Denoised` last; leaving the context cancels the request.

    Raises QueueFull if the engine is full; the iterator raises the error that ends the request.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event | DecodedPreview] = asyncio.Queue()

    def emit(event: Event | DecodedPreview) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    with previews.decoded(request, emit) as receive:
        engine.submit(request, receive)
        try:
            yield _until_end(events)
        finally:
            engine.cancel(request.request_id)


async def _until_end(events: asyncio.Queue[Event | DecodedPreview]) -> AsyncIterator[DenoiseEvent]:
    event: Event | DecodedPreview | Heartbeat | None = None
    while not isinstance(event, Denoised):
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                event = await events.get()
        except TimeoutError:
            event = Heartbeat()
        if isinstance(event, AtelierError):
            raise event
        yield event
