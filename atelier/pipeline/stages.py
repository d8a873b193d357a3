"""The graph's deployments as the pipeline sees them: numpy in and out, our own errors, no Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from atelier.core.conditioning import Conditioning, Floats, Prompts
from atelier.core.control import Annotation, ControlImage
from atelier.core.denoising import DenoiseEvent, DenoiseRequest
from atelier.core.geometry import Size
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.core.status import GraphStatus, Holders

#: The deployments that hold models.
ModelStage = Literal["text_encoder", "annotator", "denoiser", "autoencoder", "upscaler"]
#: RGB images [images, height, width, 3], or one image: [height, width, 3], with alpha [height, width, 4].
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """The embeddings of a request's prompts."""

    conditioning: Conditioning
    origin: Origin


@dataclass(frozen=True, slots=True)
class EncodedLatents:
    """The VAE's posteriors of images, scaled as the UNet reads latents."""

    #: Mean and standard deviation, each [images, 4, height / 8, width / 8].
    mean: Floats
    std: Floats
    #: The factor of the scaling.
    scaling_factor: float
    origin: Origin


@dataclass(frozen=True, slots=True)
class Annotated:
    """A control map, [height, width, 3]."""

    control_image: ControlImage
    origin: Origin


@dataclass(frozen=True, slots=True)
class DecodedLatents:
    """Images decoded from latents, [images, height, width, 3]."""

    pixels: Pixels
    origin: Origin


@dataclass(frozen=True, slots=True)
class Upscaled:
    """An image at its new size, [height, width, 3 or 4]."""

    pixels: Pixels
    #: Id of the upscaler that made it, or "bicubic".
    upscaler: str
    origin: Origin


class Stages(Protocol):
    """The stages that the pipeline calls. Every method may raise QueueFull, ReplicaLost or GenerationFailed."""

    async def encode_texts(self, model: str, prompts: Prompts, reproducibility: Reproducibility) -> EncodedTexts:
        """Encode the prompts. Raises InvalidParameter if a text is longer than the encoders read."""
        ...

    async def encode_latents(self, model: str, pixels: Pixels) -> EncodedLatents:
        """Encode images [images, height, width, 3] by the model's VAE."""
        ...

    async def annotate(self, annotation: Annotation, pixels: ControlImage) -> Annotated:
        """Draw the control map of an image [height, width, 3]. Raises NotSupported if nothing draws its kind."""
        ...

    def denoise(self, request: DenoiseRequest) -> AbstractAsyncContextManager[AsyncIterator[DenoiseEvent]]:
        """Open a stream of events, `Denoised` last; leaving the context stops the work before the next step."""
        ...

    async def decode_latents(self, model: str, latents: Floats) -> DecodedLatents:
        """Decode latents [images, 4, h, w] by the model's VAE."""
        ...

    async def upscale(
        self, upscaler: str | None, pixels: Pixels, size: Size, reproducibility: Reproducibility
    ) -> Upscaled:
        """Resize one image [height, width, 3 or 4]; bicubically if `upscaler` is None or its weights are missing."""
        ...

    async def origin(self, stage: ModelStage) -> Origin:
        """Return the placement of a stage, and the weights of all models that it holds; LoRAs are not among them."""
        ...

    async def load_model(self, model: str) -> Holders:
        """Bring a model into the memory of all replicas that run a part of it. Raises ModelUnavailable."""
        ...

    async def unload_model(self, model: str) -> Holders:
        """Take a model out of the memory of all replicas, apart from those that use it now."""
        ...

    async def metrics_text(self) -> str:
        """Return the live metrics of every Denoiser replica, in Prometheus' text format."""
        ...

    async def check_ready(self) -> bool:
        """Return whether every stage answers."""
        ...

    async def status(self) -> GraphStatus:
        """Return the state of every stage, with the devices and the models of those that answer."""
        ...
