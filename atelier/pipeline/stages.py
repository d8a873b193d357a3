"""What the pipeline needs from the graph, spoken without Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from atelier.core.conditioning import Text, TextEmbeds
from atelier.core.denoising import Denoised, DenoiseRequest, StepEvent

Pixels = npt.NDArray[np.uint8]  # [images, height, width, 3]


class Stages(Protocol):
    """The deployments as the pipeline sees them: numpy in and out, our own errors."""

    async def encode_texts(self, model: str, texts: Sequence[Text]) -> list[TextEmbeds]:
        """Raises InvalidParameter if a text is longer than the encoders read."""
        ...

    def denoise(self, request: DenoiseRequest) -> AbstractAsyncContextManager[AsyncIterator[StepEvent | Denoised]]:
        """A stream that ends with `Denoised`; leaving the context stops the work before the next step."""
        ...

    async def decode(self, model: str, latents: npt.NDArray[np.float32]) -> Pixels: ...

    async def are_ready(self) -> bool:
        """Whether every stage answers."""
        ...
