"""A request to the denoising engine, and the events that come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

import numpy as np
import numpy.typing as npt

from atelier.core.conditioning import TOKENS_PER_CHUNK, Conditioning, Floats
from atelier.core.control import Control
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility, Sampling

RequestId = NewType("RequestId", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialImage:
    """The picture that image-to-image and inpainting start from, as the VAE sees it."""

    #: Of the posterior, each [4, height / 8, width / 8].
    mean: Floats
    std: Floats
    #: [height / 8, width / 8]; 1 is painted anew, 0 kept. None: all is painted anew.
    mask: Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseRequest:
    """All the engine needs to make the latents of one request."""

    request_id: RequestId
    model: str
    height: int
    width: int
    #: One image per seed; image i is what diffusers gives with `torch.Generator("cpu").manual_seed(seeds[i])`.
    seeds: tuple[int, ...]
    sampling: Sampling
    guidance_scale: float
    conditioning: Conditioning
    #: Share of the guided prediction that gets the standard deviation of the unguided one.
    guidance_rescale: float = 0.0
    #: `exact`: to the bit, whatever runs beside it, for an equal exactness key.
    reproducibility: Reproducibility = "fast"
    initial_image: InitialImage | None = None
    controls: tuple[Control, ...] = ()
    #: Send a `StepEvent` after every step; nothing is sent where nobody listens.
    wants_steps: bool = False
    #: Send so many, evenly spread, with a preview.
    num_previews: int = 0

    @property
    def is_guided(self) -> bool:
        """Guidance of 1 or less is no guidance: such a request costs one row per image instead of two."""
        return self.guidance_scale > 1

    @property
    def num_rows(self) -> int:
        return len(self.seeds) * (2 if self.is_guided else 1)

    @property
    def num_chunks(self) -> int:
        """Chunks of 77 tokens of the longest prompt that its rows read."""
        positive, negative = self.conditioning.positive, self.conditioning.negative
        texts = [positive] if negative is None or not self.is_guided else [positive, negative]
        return max(len(text.prompt_embeds) for text in texts) // TOKENS_PER_CHUNK


@dataclass(frozen=True, slots=True)
class StepEvent:
    """Step `step` of `total` is done, counted from one."""

    step: int
    total: int
    #: What the model makes of the latents now: x₀ as it predicts it, [images, 4, height / 8, width / 8].
    preview: Floats | None = None


@dataclass(frozen=True, slots=True)
class Denoised:
    """The end of a stream: the final latents."""

    #: [images, 4, height / 8, width / 8]
    latents: npt.NDArray[np.float32]
    origin: Origin
