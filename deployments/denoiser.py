"""Denoiser: the denoising engine as a deployment, which streams each request's events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

from ray.serve.handle import DeploymentHandle

from atelier.catalogue.catalogue import Catalogue
from atelier.core.denoising import DenoiseEvent, DenoiseRequest
from atelier.core.origin import Origin
from atelier.core.status import Device
from atelier.core.work import busy_s
from atelier.pipeline.placing import Report
from deployments.limits import DenoiserLimits, changed
from deployments.logs import log_to_serve
from deployments.metrics import DenoiserMetrics
from deployments.options import DenoiserOptions
from deployments.routing import stats_of
from deployments.scaling import WORK_S
from deployments.tracing import traced_stream


class Denoiser:
    """The deployment that turns noise into latents, many requests in one batch."""

    def __init__(self, catalogue: Catalogue, options: DenoiserOptions, controlnet: DeploymentHandle | None) -> None:
        """Load the models and start the engine; `controlnet` is None if all ControlNets run in this process.

        Raises ModelUnavailable if a model's files are missing or corrupt, RuntimeError if the device is missing.
        """
        from atelier.engine.engine import EngineSettings
        from atelier.local.denoising import new_engine
        from atelier.local.previews import Previews
        from deployments.accelerator import OwnDevice, placement
        from deployments.residuals import transport

        log_to_serve()
        place = replace(placement(options), uses_graphs=options.cuda_graphs)
        self._limits = limits = DenoiserLimits()
        self._metrics = metrics = DenoiserMetrics()
        self._previews = Previews(catalogue, place)
        self._engine = new_engine(
            catalogue,
            place,
            EngineSettings(
                num_threads=options.num_threads,
                max_waiting=limits.max_waiting,
                max_rows=limits.max_rows,
                exact_width=options.exact_width,
            ),
            transport=lambda host: transport(
                catalogue, place, host, controlnet, options, on_failure=metrics.control_failed
            ),
            observe=metrics.observe,
        )
        self._device = OwnDevice(place, self._engine.memory)

    def reconfigure(self, user_config: object) -> None:
        """Take the limits in `user_config`, with requests in progress."""
        self._limits = changed(self._limits, user_config)
        self._engine.set_limits(max_waiting=self._limits.max_waiting, max_rows=self._limits.max_rows)

    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[DenoiseEvent]:
        """Yield the request's events, `Denoised` last; cancelling the stream stops the work before the next step."""
        from atelier.local.denoising import event_stream

        open_stream = partial(event_stream, self._engine, self._previews)
        async with traced_stream(request, open_stream, lambda: self._engine.status().num_running) as events:
            async for event in events:
                yield event

    def record_routing_stats(self) -> dict[str, object]:
        """What this replica has to do, and the LoRAs in its memory, for `routing`."""
        return stats_of(
            Report(
                loads=self._engine.loads(),
                loras=self._engine.resident_loras(),
                step_time=self._engine.step_time(),
            )
        )

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the seconds in which this replica would finish all that it has, for `scaling`."""
        return {WORK_S: busy_s(self._engine.loads(), self._engine.step_time())}

    async def load_model(self, model: str) -> bool:
        """Bring a model into memory, and return True. Raises ModelUnavailable."""
        await asyncio.wrap_future(self._engine.load_model(model))
        return True

    async def unload_model(self, model: str) -> bool:
        """Take a model out of memory; return whether it is still there, because it is used."""
        return self._engine.unload_model(model)

    async def origin(self) -> Origin:
        """Return this replica's placement, and the weights of its UNets and ControlNets."""
        return self._engine.origin()

    async def metrics_text(self) -> str:
        """This replica's metrics in Prometheus' text format."""
        return self._metrics.text(self._engine.status())

    async def device(self) -> Device:
        """Return the device that this replica runs on, and the models that it holds."""
        return await self._device.read()

    def check_health(self) -> None:
        """Raise RuntimeError if the engine cannot work, or a step takes longer than `stall_s`."""
        self._engine.check(stall_s=self._limits.stall_s)
