"""The pipeline's stages in one process: every model of a catalogue, called directly instead of over Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from atelier.catalogue.catalogue import Catalogue
from atelier.control.controlnets import load_controlnets
from atelier.control.transports import InProcess
from atelier.core.conditioning import Floats, Prompts
from atelier.core.control import Annotation, ControlImage
from atelier.core.denoising import DenoiseEvent, DenoiseRequest
from atelier.core.geometry import Size
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.core.status import Device, GraphStatus, Holders, Service, used_gpus
from atelier.engine.engine import Engine, EngineSettings
from atelier.local.denoising import event_stream, new_engine
from atelier.local.images import AnnotatorStage, AutoencoderStage, UpscalerStage
from atelier.local.previews import Previews
from atelier.local.runtime import Runtime
from atelier.local.texts import TextEncoderStage
from atelier.models.gpus import GpuReader
from atelier.models.loading import Placement
from atelier.models.thread import ModelThread
from atelier.models.upscaler import UpscaleTask
from atelier.pipeline.stages import (
    Annotated,
    DecodedLatents,
    EncodedLatents,
    EncodedTexts,
    ModelStage,
    Pixels,
    Upscaled,
)

CPU = Placement("cpu", "float32")
#: The engine settings of the default graph, `serve_config.yaml`.
DEFAULT_SETTINGS = EngineSettings(num_threads=2, max_waiting=64, max_rows=32, exact_width=8)

_STALL_S = 120.0
#: Stages by the deployments' names; all but the Denoiser's engine run in the thread of the models.
_IN_THREAD, _IN_ENGINE = ("TextEncoder", "Annotator", "Autoencoder", "Upscaler"), "Denoiser"
_NODE = "local"


class _HoldsModels(Protocol):
    def origin(self) -> Origin: ...


class LocalStages:
    """`atelier.pipeline.stages.Stages` in this process: threads for the engine, its previews and all other models."""

    def __init__(
        self, catalogue: Catalogue, *, placement: Placement = CPU, settings: EngineSettings = DEFAULT_SETTINGS
    ) -> None:
        """Load and warm up every model, in seconds or minutes. Raises ModelUnavailable."""
        self._runtime = runtime = Runtime.start("models", placement, num_threads=1)
        self._gpu = GpuReader(placement.device)
        self._text_encoder = TextEncoderStage.load(catalogue, runtime)
        self._annotator = AnnotatorStage.load(catalogue, runtime)
        self._autoencoder = AutoencoderStage(catalogue, runtime)
        self._upscaler = UpscalerStage.load(catalogue, runtime)
        self.engine = new_engine(
            catalogue,
            placement,
            settings,
            transport=lambda host: InProcess(load_controlnets(catalogue, placement, host)),
        )
        self._previews = Previews(catalogue, placement)

    def close(self) -> None:
        """Stop the engine after the step in progress."""
        self.engine.close()
        self._previews.close()

    async def encode_texts(self, model: str, prompts: Prompts, reproducibility: Reproducibility) -> EncodedTexts:
        return await self._text_encoder.encode_texts(model, prompts, reproducibility)

    async def encode_latents(self, model: str, pixels: Pixels) -> EncodedLatents:
        return await self._autoencoder.encode_latents(model, pixels)

    async def annotate(self, annotation: Annotation, pixels: ControlImage) -> Annotated:
        return await self._annotator.annotate(annotation, pixels)

    def denoise(self, request: DenoiseRequest) -> AbstractAsyncContextManager[AsyncIterator[DenoiseEvent]]:
        return event_stream(self.engine, self._previews, request)

    async def decode_latents(self, model: str, latents: Floats) -> DecodedLatents:
        return await self._autoencoder.decode_latents(model, latents)

    async def upscale(
        self,
        upscaler: str | None,
        pixels: Pixels,
        size: Size,
        reproducibility: Reproducibility,  # noqa: ARG002 every image is upscaled alone here
    ) -> Upscaled:
        [upscaled] = await self._upscaler.upscale([UpscaleTask(upscaler, pixels, size)])
        return upscaled

    async def origin(self, stage: ModelStage) -> Origin:
        holders: dict[ModelStage, _HoldsModels] = {
            "text_encoder": self._text_encoder,
            "annotator": self._annotator,
            "denoiser": self.engine,
            "autoencoder": self._autoencoder,
            "upscaler": self._upscaler,
        }
        return holders[stage].origin()

    async def load_model(self, model: str) -> Holders:
        await self._text_encoder.load_model(model)
        await self._autoencoder.load_model(model)
        await asyncio.wrap_future(self.engine.load_model(model))
        return Holders(num_holders=3, num_replicas=3)

    async def unload_model(self, model: str) -> Holders:
        held = [
            await self._text_encoder.unload_model(model),
            await self._autoencoder.unload_model(model),
            self.engine.unload_model(model),
        ]
        return Holders(num_holders=sum(held), num_replicas=3)

    async def metrics_text(self) -> str:
        status = self.engine.status()
        return (
            f"atelier_denoiser_steps_total {status.num_steps}\n"
            f"atelier_denoiser_waiting_requests {status.num_waiting}\n"
            f"atelier_denoiser_active_requests {status.num_running}\n"
        )

    async def check_ready(self) -> bool:
        """Return whether both threads are alive and no model call or step has run for longer than two minutes."""
        return _failure(self._runtime.thread) is None and _failure(self.engine) is None

    async def status(self) -> GraphStatus:
        """Return the state of the stages as if each were a deployment with one replica."""
        memory = (self._runtime.host.status(), self.engine.memory())
        models = tuple(sorted({model for of_host in memory for model in of_host.models}))
        device = Device(replica=_NODE, node=_NODE, gpu=await asyncio.to_thread(self._gpu.read), models=models)
        failures = dict.fromkeys(_IN_THREAD, _failure(self._runtime.thread)) | {_IN_ENGINE: _failure(self.engine)}
        return GraphStatus(
            services=tuple(_service(name, failure) for name, failure in failures.items()),
            gpus=used_gpus((name, device) for name in failures),
            models=models,
            is_complete=True,
        )


def _failure(checked: ModelThread | Engine) -> str | None:
    """Return why a thread does not work, or None if it does."""
    try:
        checked.check(stall_s=_STALL_S)
    except (RuntimeError, TimeoutError) as error:
        return str(error)
    return None


def _service(name: str, failure: str | None) -> Service:
    is_running = failure is None
    return Service(
        name=name,
        status="running" if is_running else "unhealthy",
        num_running=int(is_running),
        num_wanted=1,
        message=failure,
    )


@asynccontextmanager
async def local_stages(
    catalogue: Catalogue, *, placement: Placement = CPU, settings: EngineSettings = DEFAULT_SETTINGS
) -> AsyncIterator[LocalStages]:
    """Load every model of the catalogue into this process. Raises ModelUnavailable.

    Leaving the context stops the engine after the step in progress.
    """
    stages = await asyncio.to_thread(LocalStages, catalogue, placement=placement, settings=settings)
    try:
        yield stages
    finally:
        await asyncio.to_thread(stages.close)
