"""A request to the denoising engine, and the events that come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

import numpy as np
import numpy.typing as npt

from atelier.core.conditioning import Conditioning

RequestId = NewType("RequestId", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseRequest:
    """All the engine needs to make the latents of one request."""

    request_id: RequestId
    model: str
    height: int
    width: int
    #: One image per seed; image i is what diffusers gives with `torch.Generator("cpu").manual_seed(seeds[i])`.
    seeds: tuple[int, ...]
    num_inference_steps: int
    guidance_scale: float
    conditioning: Conditioning
    #: Send a `StepEvent` after every step; nothing is sent where nobody listens.
    wants_steps: bool = False

    @property
    def is_guided(self) -> bool:
        """Guidance of 1 or less is no guidance: such a request costs one row per image instead of two."""
        return self.guidance_scale > 1


@dataclass(frozen=True, slots=True)
class StepEvent:
    """Step `step` of `total` is done, counted from one."""

    step: int
    total: int


@dataclass(frozen=True, slots=True)
class Denoised:
    """The end of a stream: the final latents."""

    #: [images, 4, height / 8, width / 8]
    latents: npt.NDArray[np.float32]
