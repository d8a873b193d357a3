"""Final latents of a pipeline's requests, and diffusers' to compare them with."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Floats
from atelier.core.denoising import Denoised, DenoiseEvent, DenoiseRequest
from atelier.core.params import GenerateParams, parse
from atelier.core.sampling import SamplerName
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.pipeline.stages import Stages
from tests.records import new_record
from tests.unit.engine.diffusers_schedulers import new_scheduler

#: Largest relative difference of final latents.
BOUND = 5e-4


class _WatchedStages:
    """Stages that record final latents by the first seed of their request, in the order of completion."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self.latents: dict[int, Floats] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stages, name)

    @asynccontextmanager
    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[AsyncIterator[DenoiseEvent]]:
        async def watched(events: AsyncIterator[DenoiseEvent]) -> AsyncIterator[DenoiseEvent]:
            async for event in events:
                if isinstance(event, Denoised):
                    self.latents[request.pass_.seeds[0]] = event.latents
                yield event

        async with self._stages.denoise(request) as events:
            yield watched(events)


class WatchedPipeline(Pipeline):
    """A pipeline that records the final latents of its requests by their first seed."""

    def __init__(self, stages: Stages, catalogue: Catalogue, *, max_pixel_steps: int) -> None:
        watched = _WatchedStages(stages)
        super().__init__(cast(Stages, watched), catalogue, PipelineLimits(max_pixel_steps=max_pixel_steps))
        self.latents = watched.latents


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


async def pixels_of(pipeline: Pipeline, fields: Mapping[str, object]) -> npt.NDArray[np.uint8]:
    result = await pipeline.generate(new_record(), parse(GenerateParams, fields))
    return np.asarray(Image.open(io.BytesIO(result.pictures[0].data)))


def is_near(ours: Floats, theirs: torch.Tensor) -> bool:
    expected = theirs.numpy()
    return bool(np.linalg.norm(ours - expected) <= BOUND * np.linalg.norm(expected))


def latents_of_diffusers(
    kind: type, components: Mapping[str, Any], sampler: SamplerName, *, seed: int, **settings: object
) -> torch.Tensor:
    """Return the final latents of `kind`, a pipeline class of diffusers."""
    # This num_inference_steps has no effect, because the pipeline sets the timesteps again.
    scheduler = new_scheduler(components["scheduler"].config, sampler, None, num_inference_steps=10)
    switched_off = "add_watermarker" if "tokenizer_2" in components else "requires_safety_checker"
    pipeline = kind(**{**components, "scheduler": scheduler, switched_off: False})
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator("cpu").manual_seed(seed)]
    latents: torch.Tensor = pipeline(**settings, generator=generator, output_type="latent").images
    return latents
