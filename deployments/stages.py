"""The pipeline's stages spoken over Serve handles: numpy in and out, Ray's errors made ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import numpy.typing as npt
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from atelier.core.conditioning import Text, TextEmbeds
from atelier.core.denoising import Denoised, DenoiseRequest, StepEvent
from atelier.core.errors import AtelierError, QueueFull, ReplicaLost
from atelier.pipeline.stages import Pixels

_READY_TIMEOUT_S = 2.0


class HandleStages:
    """`atelier.pipeline.stages.Stages` over the handles that the graph was built with."""

    def __init__(
        self, text_encoder: DeploymentHandle, denoiser: DeploymentHandle, autoencoder: DeploymentHandle
    ) -> None:
        self._text_encoder = text_encoder
        self._denoiser = denoiser
        self._autoencoder = autoencoder

    async def encode_texts(self, model: str, texts: Sequence[Text]) -> list[TextEmbeds]:
        with _our_errors():
            embeds: list[TextEmbeds] = await self._text_encoder.encode.remote(model, texts)
        return embeds

    @asynccontextmanager
    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[AsyncIterator[StepEvent | Denoised]]:
        """Leaving a Serve stream does not stop its replica; cancelling it does."""
        stream = self._denoiser.options(stream=True).denoise.remote(request)
        try:
            with _our_errors():
                yield stream
        finally:
            stream.cancel()

    async def decode(self, model: str, latents: npt.NDArray[np.float32]) -> Pixels:
        with _our_errors():
            pixels: Pixels = await self._autoencoder.decode.remote(model, latents)
        return pixels

    async def are_ready(self) -> bool:
        stages = (self._text_encoder, self._denoiser, self._autoencoder)
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
