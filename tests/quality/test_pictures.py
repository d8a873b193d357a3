"""Image-to-image and inpainting against diffusers' pipelines, and what they leave alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from random import Random
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Floats
from atelier.core.denoising import Denoised, DenoiseRequest
from atelier.core.params import GenerateParams, parse
from atelier.core.sampling import SamplerName
from atelier.engine.schedules import DIFFUSERS
from atelier.pipeline.pipeline import Pipeline
from tests.local_stages import LocalStages
from zoo import report
from zoo.scenes import Description, Thing, arrange, draw

_ORIGINAL = draw(
    arrange(
        Description(things=(Thing(colour="red", shape="circle", place="left"),), background="white"),
        Random(3),
        width=128,
        height=96,
    )
)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _mask() -> Image.Image:
    mask = np.zeros((96, 128), dtype=np.uint8)
    mask[16:80, 64:120] = 255
    return Image.fromarray(mask)


@pytest.fixture(scope="module")
def theirs() -> StableDiffusionXLPipeline:
    return report.load_pipeline()


class _Watched(Pipeline):
    """Keeps the final latents of the last request."""

    latents: Floats

    async def _denoise(self, request: DenoiseRequest) -> Denoised:
        denoised = await super()._denoise(request)
        self.latents = denoised.latents
        return denoised


@pytest.fixture(scope="module")
def pipeline(local_stages: LocalStages, catalogue: Catalogue) -> _Watched:
    return _Watched(local_stages, catalogue, max_pixel_steps=40_000_000)


async def _ours(pipeline: Pipeline, fields: dict[str, object]) -> npt.NDArray[np.float64]:
    result = await pipeline.generate(parse(GenerateParams, {"prompt": "a blue square on the right", **fields}))
    return np.asarray(Image.open(io.BytesIO(result.pictures[0].data)), dtype=np.float64)


def _is_near(ours: Floats, theirs: torch.Tensor) -> bool:
    expected = theirs.numpy()
    return bool(np.linalg.norm(ours - expected) <= 5e-4 * np.linalg.norm(expected))


def _with_scheduler(kind: type, theirs: StableDiffusionXLPipeline, sampler: SamplerName) -> Callable[..., Any]:
    scheduler_class, settings = DIFFUSERS[sampler]
    scheduler = scheduler_class.from_config(theirs.scheduler.config, **settings)
    parts = {**theirs.components, "scheduler": scheduler}
    pipeline = kind(**parts, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return cast(Callable[..., Any], pipeline)


@pytest.mark.parametrize(
    ("sampler", "strength"),
    [
        ("euler", 0.8),
        ("euler", 1.0),
        ("dpmpp_2m", 0.5),
        ("unipc", 0.8),
        ("heun", 0.7),
        ("ddim", 0.75),
        ("euler_a", 0.6),
    ],
)
async def test_image_to_image_is_diffusers(
    pipeline: _Watched, theirs: StableDiffusionXLPipeline, sampler: SamplerName, strength: float
) -> None:
    settings = {"seed": 5, "num_inference_steps": 10, "guidance_scale": 4.0}
    await _ours(pipeline, {**settings, "sampler": sampler, "strength": strength, "init_image": _png(_ORIGINAL)})
    expected = _with_scheduler(StableDiffusionXLImg2ImgPipeline, theirs, sampler)(
        "a blue square on the right",
        image=_ORIGINAL,
        strength=strength,
        num_inference_steps=10,
        guidance_scale=4.0,
        generator=[torch.Generator("cpu").manual_seed(5)],
        output_type="latent",
    ).images
    assert _is_near(pipeline.latents, expected)


@pytest.mark.parametrize(("sampler", "strength"), [("euler", 1.0), ("euler", 0.8), ("unipc", 0.7), ("euler_a", 0.9)])
async def test_inpainting_is_diffusers_inside_and_the_original_outside(
    pipeline: _Watched, theirs: StableDiffusionXLPipeline, sampler: SamplerName, strength: float
) -> None:
    fields = {"seed": 5, "num_inference_steps": 10, "guidance_scale": 4.0, "sampler": sampler, "strength": strength}
    ours = await _ours(pipeline, {**fields, "init_image": _png(_ORIGINAL), "mask_image": _png(_mask())})
    expected = _with_scheduler(StableDiffusionXLInpaintPipeline, theirs, sampler)(
        "a blue square on the right",
        image=_ORIGINAL,
        mask_image=_mask(),
        width=128,
        height=96,
        strength=strength,
        num_inference_steps=10,
        guidance_scale=4.0,
        generator=[torch.Generator("cpu").manual_seed(5)],
        output_type="latent",
    ).images
    outside = np.asarray(_mask()) == 0
    assert np.array_equal(ours[outside], np.asarray(_ORIGINAL, dtype=np.float64)[outside])
    assert _is_near(pipeline.latents, expected)
