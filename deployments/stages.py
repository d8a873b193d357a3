"""The pipeline's stages spoken over Serve handles: numpy in and out, Ray's errors made ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import numpy.typing as npt
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from atelier.core.conditioning import Text
from atelier.core.control import Annotation, ControlImage
from atelier.core.denoising import Denoised, DenoiseRequest, StepEvent
from atelier.core.errors import AtelierError, QueueFull, ReplicaLost
from atelier.core.sampling import Reproducibility
from atelier.pipeline.stages import Annotated, Decoded, EncodedPictures, EncodedTexts, Pixels, Upscaled
from deployments.metrics import merged

logger = logging.getLogger(__name__)

_READY_TIMEOUT_S = 2.0
_METRICS_TIMEOUT_S = 5.0


class HandleStages:
    """`atelier.pipeline.stages.Stages` over the handles that the graph was built with."""

    def __init__(
        self,
        text_encoder: DeploymentHandle,
        controlnet: DeploymentHandle,
        denoiser: DeploymentHandle,
        autoencoder: DeploymentHandle,
        upscaler: DeploymentHandle,
    ) -> None:
        self._text_encoder = text_encoder
        self._controlnet = controlnet
        self._denoiser = denoiser
        self._autoencoder = autoencoder
        self._upscaler = upscaler

    async def encode_texts(self, model: str, texts: Sequence[Text], reproducibility: Reproducibility) -> EncodedTexts:
        with _our_errors():
            encoded: EncodedTexts = await self._text_encoder.encode.remote(model, texts, reproducibility)
        return encoded

    async def encode(self, model: str, pixels: Pixels) -> EncodedPictures:
        with _our_errors():
            encoded: EncodedPictures = await self._autoencoder.encode.remote(model, pixels)
        return encoded

    async def annotate(self, annotation: Annotation, picture: ControlImage) -> Annotated:
        with _our_errors():
            drawn: Annotated = await self._controlnet.annotate.remote(annotation, picture)
        return drawn

    @asynccontextmanager
    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[AsyncIterator[StepEvent | Denoised]]:
        """Leaving a Serve stream does not stop its replica; cancelling it does."""
        stream = self._denoiser.options(stream=True).denoise.remote(request)
        try:
            with _our_errors():
                yield stream
        finally:
            stream.cancel()

    async def decode(self, model: str, latents: npt.NDArray[np.float32]) -> Decoded:
        with _our_errors():
            decoded: Decoded = await self._autoencoder.decode.remote(model, latents)
        return decoded

    async def upscale(
        self, name: str | None, pixels: Pixels, reproducibility: Reproducibility, *, width: int, height: int
    ) -> Upscaled:
        with _our_errors():
            upscaled: Upscaled = await self._upscaler.upscale.remote(name, pixels, width, height, reproducibility)
        return upscaled

    async def metrics_text(self) -> str:
        answers = await self._denoiser.broadcast("metrics_text").results_async(
            timeout_s=_METRICS_TIMEOUT_S, return_exceptions=True
        )
        texts = []
        for answer in answers:
            if isinstance(answer, Exception):
                logger.warning("a replica does not tell its numbers", exc_info=answer)
            else:
                texts.append(answer)
        return merged(texts)

    async def are_ready(self) -> bool:
        stages = (self._text_encoder, self._controlnet, self._denoiser, self._autoencoder, self._upscaler)
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                with _our_errors():
                    await asyncio.gather(*(stage.ping.remote() for stage in stages))
        except (AtelierError, TimeoutError):
            return False
        return True


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except AtelierError as error:
        # Ray raises a class of its own that is also ours, with a remote traceback for a message.
        raise (error.cause if isinstance(error, RayTaskError) else error) from None
    except BackPressureError as error:
        raise QueueFull from error
    except (RayActorError, DeploymentUnavailableError) as error:
        raise ReplicaLost from error
