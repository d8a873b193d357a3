"""A pipeline whose latents can be looked at, and diffusers' to compare them with."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from atelier.core.conditioning import Floats
from atelier.core.denoising import Denoised, DenoiseRequest
from atelier.core.params import GenerateParams, parse
from atelier.core.sampling import SamplerName
from atelier.pipeline.pipeline import Pipeline

#: Relative, in the final latents.
BOUND = 5e-4


class WatchedPipeline(Pipeline):
    """Keeps the final latents by request, in the order in which they were done."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.latents: dict[int, Floats] = {}

    async def _denoise(self, request: DenoiseRequest, hear: Hear | None) -> Denoised:
        denoised = await super()._denoise(request, hear)
        self.latents[request.seeds[0]] = denoised.latents
        return denoised


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


async def pixels_of(pipeline: Pipeline, fields: Mapping[str, object]) -> npt.NDArray[np.uint8]:
    result = await pipeline.generate(parse(GenerateParams, fields))
    return np.asarray(Image.open(io.BytesIO(result.pictures[0].data)))


def is_near(ours: Floats, theirs: torch.Tensor) -> bool:
    expected = theirs.numpy()
    return bool(np.linalg.norm(ours - expected) <= BOUND * np.linalg.norm(expected))


def latents_of_diffusers(
    kind: type, components: Mapping[str, Any], sampler: SamplerName, *, seed: int, **settings: object
) -> torch.Tensor:
    """Final latents of the diffusers pipeline of that class."""
    scheduler_class, scheduler_settings = DIFFUSERS[sampler]
    scheduler = scheduler_class.from_config(components["scheduler"].config, **scheduler_settings)
    pipeline = kind(**{**components, "scheduler": scheduler}, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator("cpu").manual_seed(seed)]
    latents: torch.Tensor = pipeline(**settings, generator=generator, output_type="latent").images
    return latents
