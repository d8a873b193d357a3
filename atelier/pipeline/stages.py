"""What the pipeline needs from the graph, spoken without Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from atelier.core.conditioning import Floats, Text, TextEmbeds
from atelier.core.control import Annotation, ControlImage
from atelier.core.denoising import Denoised, DenoiseRequest, StepEvent
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility

Pixels = npt.NDArray[np.uint8]  # [images, height, width, 3]


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    #: In the order of the texts.
    embeds: list[TextEmbeds]
    origin: Origin


@dataclass(frozen=True, slots=True)
class EncodedPictures:
    """The VAE's posterior, as the UNet scales latents."""

    #: Each [images, 4, height / 8, width / 8].
    mean: Floats
    std: Floats
    origin: Origin


@dataclass(frozen=True, slots=True)
class Annotated:
    control_image: ControlImage
    origin: Origin


@dataclass(frozen=True, slots=True)
class Upscaled:
    #: [height, width, 3 or 4]
    pixels: Pixels
    #: The upscaler's id, or "bicubic".
    made_by: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Decoded:
    pixels: Pixels
    origin: Origin


class Stages(Protocol):
    """The deployments as the pipeline sees them: numpy in and out, our own errors."""

    async def encode_texts(self, model: str, texts: Sequence[Text], reproducibility: Reproducibility) -> EncodedTexts:
        """Raises InvalidParameter if a text is longer than the encoders read."""
        ...

    async def encode(self, model: str, pixels: Pixels) -> EncodedPictures: ...

    async def annotate(self, annotation: Annotation, picture: ControlImage) -> Annotated:
        """The control map of a picture. Raises NotSupported for a kind that nothing here draws."""
        ...

    def denoise(self, request: DenoiseRequest) -> AbstractAsyncContextManager[AsyncIterator[StepEvent | Denoised]]:
        """A stream that ends with `Denoised`; leaving the context stops the work before the next step."""
        ...

    async def decode(self, model: str, latents: npt.NDArray[np.float32]) -> Decoded: ...

    async def upscale(
        self, name: str | None, pixels: Pixels, reproducibility: Reproducibility, *, width: int, height: int
    ) -> Upscaled:
        """One picture [height, width, 3 or 4] at another size, by the upscaler of that name if it has its weights."""
        ...

    async def metrics_text(self) -> str:
        """Live numbers of every replica, in Prometheus' text format."""
        ...

    async def are_ready(self) -> bool:
        """Whether every stage answers."""
        ...
