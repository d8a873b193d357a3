"""The pipeline's stages over Serve handles: numpy in and out, Ray's errors turned into AtelierErrors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from atelier.core.conditioning import Floats, Prompts
from atelier.core.control import Annotation, ControlImage
from atelier.core.denoising import Denoised, DenoiseRequest, StepEvent
from atelier.core.errors import AtelierError, QueueFull, ReplicaLost
from atelier.core.geometry import Size
from atelier.core.sampling import Reproducibility
from atelier.pipeline.stages import Annotated, DecodedLatents, EncodedLatents, EncodedTexts, Pixels, Upscaled
from deployments.handles import GraphHandles
from deployments.metrics import merged
from deployments.readiness import Readiness

logger = logging.getLogger(__name__)

_METRICS_TIMEOUT_S = 1.0


class HandleStages:
    """`atelier.pipeline.stages.Stages` over the handles of a graph."""

    def __init__(self, handles: GraphHandles, readiness: Readiness) -> None:
        self._handles = handles
        self._readiness = readiness

    async def encode_texts(self, model: str, prompts: Prompts, reproducibility: Reproducibility) -> EncodedTexts:
        with _our_errors():
            encoded: EncodedTexts = await self._handles.text_encoder.encode_texts.remote(
                model, prompts, reproducibility
            )
        return encoded

    async def encode_latents(self, model: str, pixels: Pixels) -> EncodedLatents:
        with _our_errors():
            encoded: EncodedLatents = await self._handles.autoencoder.encode_latents.remote(model, pixels)
        return encoded

    async def annotate(self, annotation: Annotation, pixels: ControlImage) -> Annotated:
        with _our_errors():
            annotated: Annotated = await self._handles.annotator.annotate.remote(annotation, pixels)
        return annotated

    @asynccontextmanager
    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[AsyncIterator[StepEvent | Denoised]]:
        """Open the events of a request; leaving the context cancels the stream, which Serve would run to its end."""
        stream = self._handles.denoiser.options(stream=True).denoise.remote(request)
        try:
            with _our_errors():
                yield stream
        finally:
            stream.cancel()

    async def decode_latents(self, model: str, latents: Floats) -> DecodedLatents:
        with _our_errors():
            decoded: DecodedLatents = await self._handles.autoencoder.decode_latents.remote(model, latents)
        return decoded

    async def upscale(
        self, upscaler: str | None, pixels: Pixels, size: Size, reproducibility: Reproducibility
    ) -> Upscaled:
        with _our_errors():
            upscaled: Upscaled = await self._handles.upscaler.upscale.remote(upscaler, pixels, size, reproducibility)
        return upscaled

    async def metrics_text(self) -> str:
        """Return the metrics of all Denoisers, or none of them if one does not answer within a second."""
        answers: list[str | Exception] = [TimeoutError(f"no answer within {_METRICS_TIMEOUT_S} s")]
        asking = asyncio.create_task(
            self._handles.denoiser.broadcast("metrics_text").results_async(return_exceptions=True)
        )
        try:
            # Not `wait_for`, which waits until a cancelled call has ended.
            if (await asyncio.wait([asking], timeout=_METRICS_TIMEOUT_S))[0]:
                answers = asking.result()
        finally:
            asking.cancel()
        texts = [answer for answer in answers if isinstance(answer, str)]
        for answer in answers:
            if isinstance(answer, Exception):
                logger.warning("a Denoiser did not return its metrics", exc_info=answer)
        return merged(texts, is_complete=len(texts) == len(answers))

    async def check_ready(self) -> bool:
        """Return whether every deployment has a running replica or is scaled to zero."""
        return await self._readiness.is_ready()


@contextmanager
def _our_errors() -> Iterator[None]:
    """Turn Ray's errors into AtelierErrors: QueueFull for backpressure, ReplicaLost for a replica that is gone."""
    try:
        yield
    except AtelierError as error:
        # Ray raises a subclass of its RayTaskError and of our error, with a remote traceback as its message.
        raise (error.cause if isinstance(error, RayTaskError) else error) from None
    except BackPressureError as error:
        raise QueueFull from error
    except (RayActorError, DeploymentUnavailableError) as error:
        raise ReplicaLost from error
