"""Denoiser: the step engine behind a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ray.serve.handle import DeploymentHandle

from atelier.catalogue.catalogue import Catalogue
from atelier.core.denoising import Denoised, DenoiseRequest, StepEvent
from atelier.core.errors import AtelierError
from deployments.metrics import DenoiserMetrics
from deployments.options import DenoiserOptions


class Denoiser:
    def __init__(self, catalogue: Catalogue, options: DenoiserOptions, controlnet: DeploymentHandle) -> None:
        from atelier.engine.engine import Engine, EngineSettings, Runners
        from atelier.engine.runner import load_runners
        from atelier.models.hashes import place_hash
        from deployments.accelerator import placement
        from deployments.residuals import transport

        place = placement(options)
        self._stall_s = options.stall_s
        self._metrics = DenoiserMetrics()

        def load() -> Runners:
            residuals = transport(catalogue, place, controlnet, options, on_failure=self._metrics.control_failed)
            return load_runners(catalogue.models, place, residuals)

        self._engine = Engine(
            load,
            EngineSettings(
                num_threads=options.num_threads,
                max_waiting=options.max_waiting,
                max_rows=options.max_rows,
                exact_width=options.exact_width,
            ),
            place=place_hash(place, num_threads=options.num_threads, width=options.exact_width),
            observe=self._metrics.observe,
        )

    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[StepEvent | Denoised]:
        """The request's events; cancelling the stream stops the work before the next step."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[StepEvent | Denoised | AtelierError] = asyncio.Queue()

        def emit(event: StepEvent | Denoised | AtelierError) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        self._engine.submit(request, emit)
        try:
            while not isinstance(event := await events.get(), Denoised):
                if isinstance(event, AtelierError):
                    raise event
                yield event
            yield event
        finally:
            self._engine.cancel(request.request_id)

    async def metrics_text(self) -> str:
        """This replica's numbers in Prometheus' text format."""
        return self._metrics.text(self._engine.status())

    async def ping(self) -> None:
        """Answers when the replica is alive."""

    def check_health(self) -> None:
        self._engine.check(stall_s=self._stall_s)
